// PM2: pm2 start ecosystem.config.js --only rebreak-idle (or rebreak-idle-staging)
// What one then sees is in docs/operations.md.

const daemon = {
  cwd: __dirname, // where .env is read
  script: ".venv/bin/python",
  args: "-m rebreak_idle",
  interpreter: "none",
  exec_mode: "fork",

  // The daemon stops by itself within 10 s of SIGINT; only then may PM2 kill it.
  kill_timeout: 15000,

  autorestart: true,
  // 100 ms, then half as much again each time, up to PM2's own limit of 15 s.
  exp_backoff_restart_delay: 100,
  // EX_CONFIG: somebody has to fix the settings; a restart cannot.
  stop_exit_codes: [78],
  // For leaks, not for load: a mailbox takes about 56 KiB, the program itself about 42 MiB, so that
  // some 36,000 mailboxes would reach it (docs/benchmarks.md, run of 2026-11-28).
  max_memory_restart: "2G",

  // The daemon's lines carry no date of their own.
  log_date_format: "YYYY-MM-DD HH:mm:ss.SSS Z",
  merge_logs: true,
};

module.exports = {
  apps: [
    { ...daemon, name: "rebreak-idle", env: { NODE_ENV: "production" } },
    // Said here, or a shell's NODE_ENV=production would be handed on.
    { ...daemon, name: "rebreak-idle-staging", env: { NODE_ENV: "staging" } },
  ],
};
