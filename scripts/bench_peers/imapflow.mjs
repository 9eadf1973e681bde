// Watches mailboxes with ImapFlow and asks for scans over HTTP; the job is a JSON file.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSecureContext } from 'node:tls';
import { ImapFlow } from 'imapflow';
import { Agent, request } from 'undici';

const RENEW_MS = 1500 * 1000;
const LOGOUT_MS = 3000;

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
// One for all: a context for each connection would be a waste of memory.
const secureContext = createSecureContext({ ca: readFileSync(job.caFile) });
const http = new Agent({ connections: job.scansAtOnce });
const headers = { 'x-admin-secret': job.secret, 'content-type': 'application/json' };
const clients = new Set();

class Places {
    constructor(free) {
        this.free = free;
        this.line = [];
    }

    async use(action) {
        if (this.free) this.free--;
        else await new Promise(resolve => this.line.push(resolve));
        try {
            return await action();
        } finally {
            const next = this.line.shift();
            if (next) next();
            else this.free++;
        }
    }
}

const connects = new Places(job.connectsAtOnce);
const scans = new Places(job.scansAtOnce);

async function post(mailbox, reason) {
    const body = JSON.stringify({ connectionId: mailbox.id, userId: mailbox.userId, reason });
    const options = { method: 'POST', headers, body, dispatcher: http };
    const answer = await request(job.scanUrl, options);
    await answer.body.json();
    if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
}

// One request at a time; mail that comes meanwhile asks for another.
async function scan(mailbox, reason) {
    mailbox.owed = true;
    if (mailbox.scanning) return;
    mailbox.scanning = true;
    while (mailbox.owed) {
        try {
            await scans.use(() => {
                mailbox.owed = false;
                return post(mailbox, reason);
            });
        } catch {
            mailbox.owed = true;
            await sleep(1000);
        }
    }
    mailbox.scanning = false;
}

async function session(mailbox) {
    const client = new ImapFlow({
        host: job.imapHost,
        port: job.imapPort,
        secure: true,
        auth: { user: mailbox.email, pass: mailbox.password },
        tls: { secureContext },
        logger: false,
        disableAutoIdle: true,
        maxIdleTime: RENEW_MS,
    });
    const closed = new Promise(resolve => client.once('close', resolve));
    client.on('error', () => {});
    client.on('exists', () => {
        mailbox.uidNext = undefined; // what is announced counts anew at the next connection
        scan(mailbox, 'exists');
    });
    try {
        await connects.use(async () => {
            await client.connect();
            await client.mailboxOpen('INBOX', { readOnly: true });
        });
        clients.add(client);
        if (client.mailbox.uidNext !== mailbox.uidNext) {
            mailbox.uidNext = client.mailbox.uidNext;
            scan(mailbox, 'catch-up');
        }
        client.idle().catch(() => client.close());
        await closed;
    } finally {
        clients.delete(client);
        client.close();
    }
}

async function watch(mailbox) {
    for (;;) {
        try {
            await session(mailbox);
        } catch {
            // Tried again below.
        }
        await sleep(job.reconnectSeconds * 1000);
    }
}

process.once('SIGTERM', async () => {
    const ended = [...clients].map(client => client.logout().catch(() => {}));
    await Promise.race([Promise.all(ended), sleep(LOGOUT_MS)]);
    process.exit(0);
});

job.mailboxes.forEach(watch);
