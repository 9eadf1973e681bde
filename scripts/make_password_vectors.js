// Writes tests/unit/password_vectors.json: stored passwords as Node's own crypto makes them.
//
//     node scripts/make_password_vectors.js [file]
//
// Nothing in it is random, so that the same script always writes the same file.
'use strict'

const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')

const sha256 = (text) => crypto.createHash('sha256').update(text).digest()

const PASSWORDS = {
  ascii: 'correct horse 42',
  quoted: ' "a\'b" \\n \\\\ `$x` %s {} : . ',
  unicode: 'pässwörd – пароль – 密码 – 🔑👩‍💻',
  long: 'abcdefghij-0123456789-ABCDEFGH'.repeat(10),
  single: 'x',
}

// The text of ENCRYPTION_KEY, ENCRYPTION_KEY_ENCODING, and the key that Node makes of them.
const text = (name) => `test-only ${name} key, more than 32 characters`
const scrypt = (key, salt) => [key, `scrypt:${salt}`, crypto.scryptSync(key, salt, 32)]
const KEYS = {
  utf8: [text('utf8'), 'utf8', Buffer.from(text('utf8'), 'utf8').subarray(0, 32)],
  hex: [sha256('hex').toString('hex'), 'hex', sha256('hex')],
  base64: [sha256('base64').toString('base64'), 'base64', sha256('base64')],
  sha256: [text('sha256'), 'sha256', sha256(text('sha256'))],
  scrypt: scrypt(text('scrypt'), 'salt'),
}
const wide = `a${'é'.repeat(16)}${'🔑'.repeat(16)}`
const MORE_KEYS = {
  'utf8, cut within a character': [wide, 'utf8', Buffer.from(wide, 'utf8').subarray(0, 32)],
  'hex, upper case': [sha256('upper').toString('hex').toUpperCase(), 'hex', sha256('upper')],
  'base64url, no padding': [sha256('url').toString('base64url'), 'base64', sha256('url')],
  'sha256, not ASCII': [wide, 'sha256', sha256(wide)],
  'scrypt, salt with a colon': scrypt(wide, 'sält:2'),
}

const FORMS = [
  ['iv:tag:ciphertext', 12],
  ['iv:tag:ciphertext', 16],
  ['iv:ciphertext:tag', 12],
  ['iv:ciphertext:tag', 16],
  ['iv:ciphertext', 16],
  ['iv+tag+ciphertext', 12],
  ['iv+ciphertext+tag', 12],
]

function seal(layout, key, iv, password) {
  const gcm = layout.includes('tag')
  const cipher = crypto.createCipheriv(gcm ? 'aes-256-gcm' : 'aes-256-cbc', key, iv)
  const ciphertext = Buffer.concat([cipher.update(password, 'utf8'), cipher.final()])
  return { iv, ciphertext, tag: gcm ? cipher.getAuthTag() : undefined }
}

function write(layout, sealed, encoding, joiner) {
  if (layout.includes('+')) {
    return Buffer.concat(layout.split('+').map((part) => sealed[part])).toString(encoding)
  }
  return layout.split(':').map((part) => sealed[part].toString(encoding)).join(joiner)
}

function makeCase(layout, ivBytes, encoding, joiner, key, password) {
  const name = `${layout} iv${ivBytes} ${encoding} ${joiner} ${key} ${password}`
  const iv = sha256(name).subarray(0, ivBytes)
  const sealed = seal(layout, KEYS[key][2], iv, PASSWORDS[password])
  return { name, layout, key, password, stored: write(layout, sealed, encoding, joiner) }
}

function* cases() {
  for (const [layout, ivBytes] of FORMS) {
    for (const encoding of ['hex', 'base64', 'base64url']) {
      for (const password of Object.keys(PASSWORDS)) {
        for (const key of Object.keys(KEYS)) {
          yield makeCase(layout, ivBytes, encoding, ':', key, password)
        }
        // The joiner has nothing to do with the key, so one key will do.
        if (layout.includes(':')) yield makeCase(layout, ivBytes, encoding, '.', 'utf8', password)
      }
    }
  }
}

const rows = (values) => values.map((value) => `  ${value}`).join(',\n')
const members = (object) => {
  return rows(Object.entries(object).map(([k, v]) => `${JSON.stringify(k)}: ${JSON.stringify(v)}`))
}
const described = ([key, encoding, bytes]) => ({ text: key, encoding, bytes: bytes.toString('hex') })
const keys = Object.entries({ ...KEYS, ...MORE_KEYS }).map(([name, key]) => [name, described(key)])
const json = `{
 "keys": {
${members(Object.fromEntries(keys))}
 },
 "passwords": {
${members(PASSWORDS)}
 },
 "cases": [
${rows([...cases()].map((one) => JSON.stringify(one)))}
 ]
}
`
const target = path.join(__dirname, '..', 'tests', 'unit', 'password_vectors.json')
fs.writeFileSync(process.argv[2] ?? target, json)
