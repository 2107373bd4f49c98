// What E2B's JavaScript SDK does, by the package that is installed beside this
// file's working directory. Each check prints one line of JSON.
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import assert from 'node:assert/strict'
import http from 'node:http'
import https from 'node:https'

const require = createRequire(process.cwd() + '/')
const e2b = await import(pathToFileURL(require.resolve('e2b')).href)
const minor = Number(JSON.parse(readFileSync(join(process.cwd(), 'node_modules/e2b/package.json'))).version.split('.')[1])

// Node 20 forgets that a copy of a request is to end with the request, once it has
// collected garbage (https://github.com/nodejs/undici/issues/4068), and SDKs from 2.51
// on send copies to the API: a timeout would then not come. Copies are kept here.
const clone = Request.prototype.clone
const kept = []
Request.prototype.clone = function () {
  const copy = new Request(clone.call(this), { signal: this.signal })
  kept.push(this, copy)
  return copy
}

const { Sandbox, Template, Volume } = e2b.default?.Sandbox ? e2b.default : e2b

// TEST_LIMIT is how many seconds a check may take, which only ends one that hangs,
// TEST_FEATURES which are wanted.
const LIMIT = Number(process.env.TEST_LIMIT ?? 300) * 1000
const FEATURES = process.env.TEST_FEATURES?.split(',')
const tell = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const within = (promise, ms = LIMIT) => {
  let timer
  return Promise.race([
    promise,
    new Promise((_, no) => { timer = setTimeout(() => no(new Error('it did not end in time')), ms) }),
  ]).finally(() => clearTimeout(timer))
}

async function check(feature, name, f) {
  if (FEATURES && !FEATURES.includes(feature)) return
  try {
    await within(Promise.resolve().then(f))
    tell({ feature, check: name, ok: true })
  } catch (err) {
    tell({ feature, check: name, ok: false, error: `${err?.name}: ${err?.message}` })
  }
}

// fails wants an error of one of some classes, and of none below them.
async function fails(f, ...names) {
  try {
    await f()
  } catch (err) {
    const name = err?.constructor?.name
    assert.ok(names.includes(name), `it failed with ${name} (${err.message}), not with ${names}`)
    return err
  }
  assert.fail(`it did not fail with ${names}`)
}

// until waits for something to become so, which no event tells of.
async function until(f) {
  for (;;) {
    const v = await f()
    if (v) return v
    await new Promise((r) => setTimeout(r, 50))
  }
}

// visit makes a request to a name below the sandboxes' domain, which need not
// resolve on this host: they are all on loopback.
function visit(host, path, headers = {}, send = undefined) {
  const scheme = process.env.TEST_SCHEME ?? 'https'
  const lookup = (_, o, cb) => (o.all ? cb(null, [{ address: '127.0.0.1', family: 4 }]) : cb(null, '127.0.0.1', 4))
  return new Promise((resolve, reject) => {
    const method = send === undefined ? 'GET' : 'POST'
    const req = (scheme === 'http' ? http : https).request(`${scheme}://${host}${path}`, { method, headers, lookup, agent: false }, (res) => {
      let body = ''
      res.setEncoding('utf8').on('data', (d) => { body += d }).on('end', () => resolve({ status: res.statusCode, body })).on('error', reject)
    })
    req.on('error', reject)
    req.end(send)
  })
}

// DRIVER is what the sandboxes are to be on. Copies of them go on with what ran
// in their origin where it keeps memory.
const DRIVER = process.env.TEST_DRIVER
const KEEPS = DRIVER !== 'oci'
const onDriver = async (s) => {
  const res = await fetch(`${process.env.TEST_API}/api/v1/vms/${s.sandboxId}`, { headers: { Authorization: `Bearer ${process.env.E2B_API_KEY}` } })
  assert.deepEqual([res.status, (await res.json()).driver], [200, DRIVER])
}
const runs = async (s, text) => (await s.commands.list()).some((p) => p.args.join(' ').includes(text))

const made = []
// patient has a sandbox's requests wait as long as a check may take: by themselves
// they end after a minute, which is less than what is slow may need.
const patient = { requestTimeoutMs: LIMIT }
const make = async (...args) => {
  const options = typeof args.at(-1) === 'object' ? args.pop() : {}
  const s = await within(Sandbox.create(...args, { ...patient, ...options }))
  made.push(s)
  await onDriver(s)
  return s
}

const all = async (paginator) => {
  const items = []
  while (paginator.hasNext) items.push(...(await paginator.nextItems()))
  return items
}

const mark = `js ${Date.now()} a&b=c é`
let sbx

await check('create', 'a sandbox with metadata, environment and a timeout', async () => {
  sbx = await make('base', { metadata: { mark, n: '1' }, envs: { FROM_CREATE: 'yes' }, timeoutMs: 3_600_000 }) // other checks go on with it
  assert.match(sbx.sandboxId, /^[a-z0-9]{1,57}$/)
  assert.equal((await sbx.commands.run('echo $FROM_CREATE')).stdout, 'yes\n')
})
if (!sbx) process.exit(1) // whatever is wanted, this is

await check('create', 'a template that there is not', async () => {
  await fails(() => make('no-such-template'), 'SandboxError')
})
await check('create', 'a key that does not count', async () => {
  await fails(() => make('base', { apiKey: 'e2b_' + '0'.repeat(40) }), 'AuthenticationError')
})

await check('getInfo', 'what a sandbox is', async () => {
  const info = await sbx.getInfo()
  assert.equal(info.sandboxId, sbx.sandboxId)
  assert.equal(info.name, 'base')
  assert.equal(info.metadata.mark, mark)
  assert.equal(info.state, 'running')
  assert.ok(info.cpuCount >= 1 && info.memoryMB >= 64)
  const left = info.endAt.getTime() - info.startedAt.getTime()
  assert.ok(Math.abs(left - 3_600_000) < 2000, `it ends after ${left} ms`)
})
await check('getInfo', 'a sandbox that there is not', async () => {
  await fails(() => Sandbox.getInfo('a'.repeat(20)), 'SandboxNotFoundError')
})
await check('isRunning', 'a running one', async () => assert.equal(await sbx.isRunning(), true))

await check('setTimeout', 'longer and shorter', async () => {
  for (const ms of [900_000, 300_000, 3_600_000]) { // the last is what the other checks have
    const before = Date.now()
    await sbx.setTimeout(ms)
    const after = Date.now()
    const end = (await sbx.getInfo()).endAt.getTime()
    assert.ok(before - 2000 < end - ms && end - ms < after + 2000, `it ends at ${end}, asked between ${before} and ${after}`)
  }
})
await check('setTimeout', 'the end of its time', async () => {
  const s = await make('base', { timeoutMs: 600_000 })
  await s.setTimeout(1000)
  await until(async () => !(await s.isRunning()))
  await fails(() => s.getInfo(), 'SandboxNotFoundError')
})

await check('list', 'by metadata, with odd characters', async () => {
  const items = await all(Sandbox.list({ query: { metadata: { mark } } }))
  assert.deepEqual(items.map((i) => i.sandboxId), [sbx.sandboxId])
})
await check('list', 'in pages', async () => {
  const more = [await make('base', { metadata: { page: mark } }), await make('base', { metadata: { page: mark } }), await make('base', { metadata: { page: mark } })]
  const pages = Sandbox.list({ limit: 2, query: { metadata: { page: mark } } })
  const first = await pages.nextItems()
  assert.equal(first.length, 2)
  assert.equal(pages.hasNext, true)
  const second = await pages.nextItems()
  assert.equal(pages.hasNext, false)
  assert.deepEqual([...first, ...second].map((i) => i.sandboxId).sort(), more.map((s) => s.sandboxId).sort())
  await Promise.all(more.map((s) => s.kill()))
})

await check('commands', 'output, exit codes and errors', async () => {
  const ok = await sbx.commands.run('echo out; echo err >&2; printf "é€😀"')
  assert.deepEqual([ok.exitCode, ok.stdout, ok.stderr], [0, 'out\né€😀', 'err\n'])
  const err = await fails(() => sbx.commands.run('echo broken >&2; exit 7'), 'CommandExitError')
  assert.deepEqual([err.exitCode, err.stderr], [7, 'broken\n'])
})
await check('commands', 'user, directory and environment', async () => {
  assert.equal((await sbx.commands.run('whoami; pwd')).stdout, 'user\n/home/user\n')
  assert.equal((await sbx.commands.run('whoami; pwd; echo $X', { user: 'root', cwd: '/tmp', envs: { X: 'a b' } })).stdout, 'root\n/tmp\na b\n')
  await fails(() => sbx.commands.run('true', { cwd: '/no/such/directory' }), 'InvalidArgumentError')
  await fails(() => sbx.commands.run('true', { user: 'nobody-here' }), 'AuthenticationError')
})
await check('commands', 'callbacks as output comes', async () => {
  let out = ''
  let err = ''
  const cmd = await sbx.commands.run('for i in 1 2 3; do echo $i; echo e$i >&2; read a || exit 9; done', { background: true, stdin: true, onStdout: (d) => { out += d }, onStderr: (d) => { err += d } })
  for (const [o, e] of [['1\n', 'e1\n'], ['1\n2\n', 'e1\ne2\n'], ['1\n2\n3\n', 'e1\ne2\ne3\n']]) {
    await until(() => out === o && err === e) // it writes no more until it is told to
    await sbx.commands.sendStdin(cmd.pid, 'on\n')
  }
  const r = await cmd.wait()
  assert.deepEqual([r.exitCode, r.stdout, r.stderr], [0, out, err])
})
await check('commands', 'much output', async () => {
  const r = await sbx.commands.run('seq 1 300000 | md5sum; seq 1 300000')
  assert.equal(r.stdout.length, 1988895 + 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx  -\n'.length)
})
await check('commands', 'in the background, with input', async () => {
  const cmd = await sbx.commands.run('cat; echo done', { background: true, stdin: true })
  await sbx.commands.sendStdin(cmd.pid, 'first\n')
  await until(() => cmd.stdout === 'first\n')
  await sbx.commands.closeStdin(cmd.pid)
  assert.equal((await cmd.wait()).stdout, 'first\ndone\n')
})
await check('commands', 'input in many pieces', async () => {
  const cmd = await sbx.commands.run('cat', { background: true, stdin: true })
  const lines = Array.from({ length: 200 }, (_, i) => `${i}\n`)
  for (const line of lines) await sbx.commands.sendStdin(cmd.pid, line)
  await sbx.commands.closeStdin(cmd.pid)
  assert.equal((await cmd.wait()).stdout, lines.join(''))
})
await check('commands', 'list, connect and kill', async () => {
  const cmd = await sbx.commands.run('echo started; exec sleep 1000', { background: true, timeoutMs: 0 })
  const listed = (await sbx.commands.list()).find((p) => p.pid === cmd.pid)
  assert.ok(listed && listed.args.join(' ').includes('sleep 1000'))
  const again = await sbx.commands.connect(cmd.pid)
  assert.equal(again.pid, cmd.pid)
  assert.equal(await sbx.commands.kill(cmd.pid), true)
  await fails(() => cmd.wait(), 'CommandExitError')
  await fails(() => again.wait(), 'CommandExitError')
  assert.equal(await sbx.commands.kill(cmd.pid), false)
  await fails(() => sbx.commands.connect(999999), 'NotFoundError')
})
await check('commands', 'a timeout', async () => {
  await fails(() => sbx.commands.run('sleep 1000', { timeoutMs: 1000 }), 'TimeoutError')
  await until(async () => !(await sbx.commands.list()).some((p) => p.args.join(' ').includes('sleep 1000')))
})
await check('commands', 'a dropped connection leaves the command running', async () => {
  const cmd = await sbx.commands.run('sleep 2; echo survived > /tmp/survived', { background: true })
  await cmd.disconnect()
  await until(async () => (await sbx.files.exists('/tmp/survived')) && (await sbx.files.read('/tmp/survived')) === 'survived\n')
})

await check('pty', 'a terminal: input, output, size and end', async () => {
  const decoder = new TextDecoder()
  let out = ''
  const pty = await sbx.pty.create({ cols: 80, rows: 24, onData: (d) => { out += decoder.decode(d, { stream: true }) }, envs: { IN_PTY: 'yes' } })
  const type = (text) => sbx.pty.sendInput(pty.pid, new TextEncoder().encode(text))
  await type('echo "<$IN_PTY>"; stty size\n')
  await until(() => out.includes('<yes>') && out.includes('24 80'))
  await sbx.pty.resize(pty.pid, { cols: 100, rows: 30 })
  await type('stty size\n')
  await until(() => out.includes('30 100'))
  await type('exit 0\n')
  assert.equal((await pty.wait()).exitCode, 0)
})
await check('pty', 'connect and kill', async () => {
  const pty = await sbx.pty.create({ cols: 80, rows: 24, onData: () => {} })
  let out = ''
  const again = await sbx.pty.connect(pty.pid, { onData: (d) => { out += new TextDecoder().decode(d) } })
  await sbx.pty.sendInput(pty.pid, new TextEncoder().encode('echo a""gain\n'))
  await until(() => out.includes('again'))
  await again.disconnect()
  assert.equal(await sbx.pty.kill(pty.pid), true)
  await fails(() => pty.wait(), 'CommandExitError')
})

await check('files', 'write and read in every form', async () => {
  const info = await sbx.files.write('dir/text.txt', 'héllo')
  assert.equal(info.path, '/home/user/dir/text.txt')
  assert.equal(await sbx.files.read('dir/text.txt'), 'héllo')
  const bytes = new Uint8Array(100_000).map((_, i) => i % 251)
  await sbx.files.write('/tmp/bytes', bytes.buffer)
  assert.deepEqual(await sbx.files.read('/tmp/bytes', { format: 'bytes' }), bytes)
  assert.equal((await (await sbx.files.read('/tmp/bytes', { format: 'blob' })).arrayBuffer()).byteLength, bytes.length)
  let n = 0
  for await (const chunk of await sbx.files.read('/tmp/bytes', { format: 'stream' })) n += chunk.length
  assert.equal(n, bytes.length)
  await sbx.files.write('/tmp/stream', new Blob([bytes]).stream())
  assert.deepEqual(await sbx.files.read('/tmp/stream', { format: 'bytes' }), bytes)
  const many = await sbx.files.write([{ path: 'm/1', data: 'one' }, { path: 'm/2', data: 'two' }])
  assert.equal(many.length, 2)
  assert.equal(await sbx.files.read('m/2'), 'two')
})
await check('files', 'compressed on its way', async () => {
  const text = 'the same again and again, '.repeat(40_000)
  await sbx.files.write('packed', text, { gzip: true })
  assert.equal((await sbx.commands.run('stat -c %s packed')).stdout, `${text.length}\n`)
  assert.equal(await sbx.files.read('packed', { gzip: true }), text)
  assert.equal(await sbx.files.read('packed'), text)
  assert.deepEqual(await sbx.files.read('packed', { format: 'bytes', gzip: true }), new TextEncoder().encode(text))
})
await check('files', 'metadata', async () => {
  const kept = { owner: 'a b', n: '1' }
  assert.deepEqual((await sbx.files.write('about/told', 'x', { metadata: { Owner: 'a b', n: '1' } })).metadata, kept)
  assert.deepEqual((await sbx.files.write('about/packed', 'x', { metadata: kept, gzip: true })).metadata, kept)
  assert.deepEqual((await sbx.files.getInfo('about/told')).metadata, kept)
  await sbx.files.write('about/plain', 'x')
  const listed = Object.fromEntries((await sbx.files.list('about')).map((e) => [e.name, e.metadata]))
  assert.deepEqual(listed, { told: kept, packed: kept, plain: undefined })
  assert.deepEqual((await sbx.files.rename('about/told', 'about/moved')).metadata, kept)
  // It is where E2B has it.
  const read = "import os; print(os.getxattr('about/moved', 'user.e2b.owner').decode())"
  assert.equal((await sbx.commands.run(`python3 -c "${read}"`)).stdout, 'a b\n')
  for (const metadata of [{ 'a key': 'x' }, { '': 'x' }, { k: 'a\nb' }]) {
    await fails(() => sbx.files.write('about/bad', 'x', { metadata }), 'InvalidArgumentError')
  }
  assert.equal(await sbx.files.exists('about/bad'), false)
})
await check('files', 'a large file', async () => {
  const big = new Uint8Array(32 << 20)
  for (let i = 0; i < big.length; i += 4096) big[i] = i >> 12
  await sbx.files.write('/tmp/big', big.buffer)
  const back = await sbx.files.read('/tmp/big', { format: 'bytes' })
  assert.ok(Buffer.compare(Buffer.from(back), Buffer.from(big)) === 0)
})
await check('files', 'list, stat, move, make and remove', async () => {
  assert.equal(await sbx.files.makeDir('made/deep'), true)
  assert.equal(await sbx.files.makeDir('made/deep'), false)
  await sbx.files.write('made/deep/f', 'x')
  await sbx.commands.run('ln -s /etc/hostname made/link; chmod 640 made/deep/f')
  const list = await sbx.files.list('made', { depth: 2 })
  assert.deepEqual(list.map((e) => e.path).sort(), ['/home/user/made/deep', '/home/user/made/deep/f', '/home/user/made/link'])
  const f = await sbx.files.getInfo('made/deep/f')
  assert.deepEqual([f.type, f.size, f.permissions, f.owner], ['file', 1, '-rw-r-----', 'user'])
  assert.equal(list.find((e) => e.name === 'link').symlinkTarget, '/etc/hostname')
  const moved = await sbx.files.rename('made/deep/f', 'made/other/g')
  assert.equal(moved.path, '/home/user/made/other/g')
  assert.equal(await sbx.files.exists('made/deep/f'), false)
  await sbx.files.remove('made')
  assert.equal(await sbx.files.exists('made'), false)
})
await check('files', 'errors and users', async () => {
  await fails(() => sbx.files.read('/no/such/file'), 'FileNotFoundError')
  await fails(() => sbx.files.list('/no/such/directory'), 'FileNotFoundError')
  await sbx.files.write('/root/secret', 's', { user: 'root' })
  assert.equal(await sbx.files.read('/root/secret', { user: 'root' }), 's')
  await fails(() => sbx.files.read('/root/secret'), 'SandboxError')
})
await check('files', 'watch', async () => {
  await sbx.files.makeDir('watched')
  const events = []
  const handle = await sbx.files.watchDir('watched', (e) => events.push(`${e.type} ${e.name}`), { recursive: true })
  await sbx.files.write('watched/new', '1')
  await until(() => events.some((e) => e.startsWith('create') && e.endsWith('new')) || events.some((e) => e.startsWith('write') && e.endsWith('new')))
  await sbx.files.remove('watched/new')
  await until(() => events.some((e) => e.startsWith('remove') && e.endsWith('new')))
  await handle.stop()
  await fails(() => sbx.files.watchDir('no/such', () => {}), 'FileNotFoundError')
})
await check('files', 'signed URLs', async () => {
  // With E2B_SANDBOX_URL a URL names no sandbox: it is asked for by its name.
  const named = (u) => { const url = new URL(u); return process.env.E2B_SANDBOX_URL ? [process.env.E2B_SANDBOX_URL + url.pathname + url.search, { 'E2b-Sandbox-Id': sbx.sandboxId }] : [u, {}] }
  const [up, h1] = named(await sbx.uploadUrl('signed.txt', { useSignatureExpiration: 60_000 }))
  const form = new FormData()
  form.append('file', new Blob(['by url']), 'signed.txt')
  const put = await fetch(up, { method: 'POST', body: form, headers: h1 })
  assert.equal(put.status, 200, await put.text())
  const [down, h2] = named(await sbx.downloadUrl('signed.txt', { useSignatureExpiration: 60_000 }))
  assert.equal(await (await fetch(down, { headers: h2 })).text(), 'by url')
  const [bad, h3] = named(down.replace(/signature=[^&]*/, 'signature=v1_forged'))
  assert.equal((await fetch(bad, { headers: h3 })).status, 401)
  const [late, h4] = named(await sbx.downloadUrl('signed.txt', { useSignatureExpiration: -10_000 }))
  assert.equal((await fetch(late, { headers: h4 })).status, 401) // signed well, for a time that is over
})

await check('getHost', 'a server in the sandbox', async () => {
  const cmd = await sbx.commands.run('echo served > /tmp/index.html; exec python3 -m http.server 8000 --directory /tmp', { background: true, timeoutMs: 0 })
  const host = sbx.getHost(8000)
  const get = (path) => visit(host, path)
  await until(async () => (await get('/')).status === 200)
  assert.equal((await get('/index.html')).body, 'served\n')
  await cmd.kill()
  await until(async () => (await get('/')).status === 502)
})
await check('getHost', 'a traffic token', async () => {
  const s = await make('base', { network: { allowPublicTraffic: false } })
  await s.commands.run('exec python3 -m http.server 8000 --directory /tmp', { background: true, timeoutMs: 0 })
  const get = (headers) => visit(s.getHost(8000), '/', headers)
  assert.ok(s.trafficAccessToken)
  await until(async () => (await get({ 'e2b-traffic-access-token': s.trafficAccessToken })).status === 200)
  assert.equal((await get({ 'e2b-traffic-access-token': 'wrong' })).status, 403)
  assert.ok([401, 403].includes((await get({})).status))
  await s.kill()
})
if (minor > 45) {
  await check('getHost', 'a server that speaks TLS itself', async () => {
    const s = await make('base', { network: { httpsPorts: [8443] } })
    assert.deepEqual((await s.getInfo()).network.httpsPorts, [8443])
    await s.commands.run('openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=own -keyout key.pem -out cert.pem 2>&1')
    await s.files.write('serve.py', [
      'import http.server, ssl',
      'context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)',
      'context.load_cert_chain("cert.pem", "key.pem")',
      'server = http.server.HTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)',
      'server.socket = context.wrap_socket(server.socket, server_side=True)',
      'server.serve_forever()'].join('\n'))
    await s.commands.run('exec python3 serve.py', { background: true, timeoutMs: 0 })
    await until(async () => (await visit(s.getHost(8443), '/')).status === 200)
    assert.match((await visit(s.getHost(8443), '/cert.pem')).body, /BEGIN CERTIFICATE/)
    await s.kill()
  })
} else {
  tell({ feature: 'getHost', check: 'a server that speaks TLS itself', skip: 'this version has none' })
}

await check('metrics', 'what a sandbox uses', async () => {
  const [m] = await until(async () => { const list = await sbx.getMetrics(); return list.length ? list : undefined })
  assert.ok(m.cpuCount >= 1 && m.memTotal > 0 && m.memUsed > 0 && m.diskTotal > 0 && m.timestamp instanceof Date)
})

await check('network', 'rules are set, shown and replaced', async () => {
  const s = await make('base', { network: { denyOut: ['0.0.0.0/0'], allowOut: ['203.0.113.7'] } })
  let n = (await s.getInfo()).network
  assert.deepEqual([n.allowOut, n.denyOut], [['203.0.113.7'], ['0.0.0.0/0']])
  await s.updateNetwork({ denyOut: ['203.0.113.0/24'] })
  n = (await s.getInfo()).network
  assert.deepEqual([n.allowOut ?? [], n.denyOut], [[], ['203.0.113.0/24']])
  await fails(() => s.updateNetwork({ denyOut: ['not a network'] }), 'SandboxError')
  await s.kill()
})
await check('network', 'what cannot be had is refused', async () => {
  const rules = { 'a.example': [{ transform: { headers: { Authorization: 'Bearer ${e2b.identity.tokens.x}' } } }] }
  for (const [network, why] of [
    [{ rules }, /identities/], [{ egressProxy: { address: 'proxy' } }, /address/],
  ]) {
    const err = await fails(() => make('base', { network }), 'SandboxError')
    assert.match(err.message, why)
  }
  const s = await make('base')
  assert.match((await fails(() => s.updateNetwork({ rules }), 'SandboxError')).message, /identities/)
  await s.updateNetwork({ rules: { 'a.example': [{ transform: { headers: { Authorization: 'Bearer x' } } }] } })
  assert.deepEqual((await s.getInfo()).network.rules, { 'a.example': [{ transform: { headers: { Authorization: '***' } } }] })
  assert.match((await s.commands.run('echo $NODE_EXTRA_CA_CERTS; test -s $NODE_EXTRA_CA_CERTS')).stdout, /aetherium-egress/)
  await s.updateNetwork({ egressProxy: { address: 'proxy.example:1080', username: 'u', password: 'p' } })
  assert.deepEqual((await s.getInfo()).network.egressProxy, { address: 'proxy.example:1080', username: 'u' })
  await s.updateNetwork({ rules: { 'a.example': [{}] }, allowOut: ({ rules }) => [...rules.keys()], denyOut: ['0.0.0.0/0'] })
  assert.deepEqual((await s.getInfo()).network.allowOut, ['a.example'])
  await s.kill()
})
// What is outside is beside this host: an address answers with its own name.
const [HERE, THERE] = (process.env.TEST_OUTSIDE ?? '').split(',')
const reaches = async (s) => {
  const of = async (a) => (await s.commands.run(`curl -sf -m 10 http://${a}/ || true`)).stdout === `this is ${a}\n`
  return [await of(HERE), await of(THERE)]
}
await check('network', 'no internet', async () => {
  const open = await make('base')
  assert.deepEqual(await reaches(open), [true, true])
  const s = await make('base', { allowInternetAccess: false })
  assert.equal((await s.getInfo()).allowInternetAccess, false)
  assert.deepEqual(await reaches(s), [false, false])
  await Promise.all([open.kill(), s.kill()])
})
await check('network', 'rules decide what is reached', async () => {
  const s = await make('base', { network: { denyOut: ['0.0.0.0/0'], allowOut: [HERE] } })
  assert.deepEqual(await reaches(s), [true, false])
  await s.updateNetwork({ denyOut: [HERE + '/32'] })
  assert.deepEqual(await reaches(s), [false, true])
  await s.updateNetwork({ denyOut: ['0.0.0.0/0'] })
  assert.deepEqual(await reaches(s), [false, false])
  await s.updateNetwork({})
  assert.deepEqual(await reaches(s), [true, true])
  await s.kill()
})

await check('pause', 'pause and connect', async () => {
  const s = await make('base', { timeoutMs: 300_000 })
  await s.files.write('kept', 'as it was')
  assert.notEqual(await s.pause(), false)
  assert.equal(await s.pause(), false)
  assert.equal((await s.getInfo()).state, 'paused')
  assert.equal(await s.isRunning(), false)
  const paused = await all(Sandbox.list({ query: { state: ['paused'] } }))
  assert.ok(paused.some((i) => i.sandboxId === s.sandboxId))
  await fails(() => s.commands.run('true'), 'SandboxNotFoundError')
  const again = await Sandbox.connect(s.sandboxId, { ...patient, timeoutMs: 400_000 })
  assert.equal(again.sandboxId, s.sandboxId)
  assert.equal(await again.files.read('kept'), 'as it was')
  assert.equal((await again.getInfo()).state, 'running')
  await s.kill()
})
await check('pause', 'processes go on from where they were', async () => {
  const s = await make('base')
  await s.commands.run('sleep 5000', { background: true, timeoutMs: 0 })
  await s.pause()
  const again = await Sandbox.connect(s.sandboxId, patient)
  assert.equal(await runs(again, 'sleep 5000'), true)
  await again.kill()
})
await check('pause', 'at the end of its time, and woken by traffic', async () => {
  const s = await make('base', { timeoutMs: 300_000, lifecycle: { onTimeout: 'pause', autoResume: true } })
  await s.files.write('kept', 'x')
  await s.setTimeout(1000)
  await until(async () => (await s.getInfo()).state === 'paused')
  const before = Date.now()
  assert.equal((await s.commands.run('cat kept', { timeoutMs: 0 })).stdout, 'x')
  const info = await s.getInfo()
  assert.equal(info.state, 'running')
  assert.ok(info.endAt.getTime() - before > 200_000, 'it was woken for a moment only')
  await s.kill()
})
await check('connect', 'never shortens, and what there is not', async () => {
  const before = Date.now()
  await sbx.setTimeout(3_600_000)
  await Sandbox.connect(sbx.sandboxId, { ...patient, timeoutMs: 1000 })
  assert.ok((await sbx.getInfo()).endAt.getTime() - before > 3_500_000)
  await fails(() => Sandbox.connect('a'.repeat(20), patient), 'SandboxNotFoundError')
})

await check('snapshots', 'make, list, use and delete', async () => {
  await sbx.files.write('in-snapshot', 'yes')
  const cmd = await sbx.commands.run('exec sleep 6000', { background: true, timeoutMs: 0 })
  const snap = await sbx.createSnapshot()
  assert.ok(snap.snapshotId)
  const listed = await all(Sandbox.listSnapshots({ sandboxId: sbx.sandboxId }))
  assert.ok(listed.some((x) => x.snapshotId === snap.snapshotId))
  const s = await make(snap.snapshotId)
  assert.equal(await s.files.read('in-snapshot'), 'yes')
  assert.deepEqual([await runs(sbx, 'sleep 6000'), await runs(s, 'sleep 6000')], [true, KEEPS])
  await s.kill()
  await cmd.kill()
  assert.equal(await Sandbox.deleteSnapshot(snap.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snap.snapshotId), false)
})
await check('snapshots', 'by a name', async () => {
  const name = 'js-snap-' + Date.now()
  const snap = await sbx.createSnapshot({ name })
  assert.ok(snap.names.includes(name))
  const s = await make(name)
  assert.equal(await s.files.read('in-snapshot'), 'yes')
  await s.kill()
  assert.equal(await Sandbox.deleteSnapshot(snap.snapshotId), true)
})
await check('fork', 'several at once', async () => {
  await sbx.files.write('forked', 'from here')
  const cmd = await sbx.commands.run('exec sleep 7000', { background: true, timeoutMs: 0 })
  const forks = await sbx.fork({ count: 2 })
  const list = Array.isArray(forks) ? forks : [forks]
  for (const f of list) assert.ok(!(f instanceof Error), f)
  const boxes = list.map((f) => f.sandbox ?? f)
  assert.equal(new Set(boxes.map((b) => b.sandboxId)).size, 2)
  for (const b of boxes) {
    await onDriver(b)
    assert.equal(await b.files.read('forked'), 'from here')
    assert.equal(await runs(b, 'sleep 7000'), KEEPS)
    await b.files.write('forked', 'apart')
    await b.kill()
  }
  assert.equal(await sbx.files.read('forked'), 'from here')
  assert.equal(await cmd.kill(), true)
})

await check('Template', 'from a template: commands, files, environment, user and start', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'template-'))
  mkdirSync(join(dir, 'app/deep'), { recursive: true })
  writeFileSync(join(dir, 'app/one.txt'), 'one\n')
  writeFileSync(join(dir, 'app/deep/two.txt'), 'two\n')
  writeFileSync(join(dir, 'single.txt'), 'single\n')
  const name = 'js-template-' + Date.now()
  const template = Template({ fileContextPath: dir })
    .fromTemplate('base')
    .setEnvs({ IN_TEMPLATE: 'a "b" c' })
    .runCmd('echo "made by $(whoami) in $PWD" > made')
    .runCmd(['echo root > /made-by-root', 'whoami >> /made-by-root'], { user: 'root' })
    .setWorkdir('/home/user/work')
    .copy('app', 'app')
    .copy('single.txt', '/home/user/')
    .copy('single.txt', '/opt/tool', { mode: 0o750, user: 'root' })
    .setStartCmd('python3 -m http.server 8123 --directory /home/user', 'curl -sf http://127.0.0.1:8123/single.txt')
  const lines = []
  const built = await Template.build(template, name, { cpuCount: 1, memoryMB: 512, onBuildLogs: (l) => lines.push(l.message) })
  assert.ok(built.buildId && built.templateId)
  assert.ok(lines.some((l) => l.includes('made by')), lines.join('\n'))
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(name + '-not'), false)
  const s = await make(name)
  assert.equal((await s.getInfo()).memoryMB, 512)
  const cat = async (cmd) => (await s.commands.run(cmd)).stdout
  assert.equal(await cat('cat /home/user/made'), 'made by user in /home/user\n')
  assert.equal(await cat('cat /made-by-root'), 'root\nroot\n')
  assert.equal(await cat('cd /home/user/work/app && cat one.txt deep/two.txt ../../single.txt && stat -c %U one.txt'), 'one\ntwo\nsingle\nuser\n')
  assert.equal(await cat('stat -c "%U %G %a" /opt/tool'), 'root root 750\n')
  assert.equal(await cat('echo "$IN_TEMPLATE"'), 'a "b" c\n')
  assert.equal(await cat('curl -sf http://127.0.0.1:8123/single.txt'), 'single\n')
  await s.kill()
  assert.equal(await Sandbox.deleteSnapshot(name), true)
  rmSync(dir, { recursive: true })
})
await check('Template', 'from an image, and from one that needs credentials', async () => {
  const registry = process.env.TEST_REGISTRY
  const good = { username: 'robot', password: 'pass: w0rd' }
  const build = (template, name) => Template.build(template.runCmd('echo "$OF_IMAGE $(id -un)" > made'), name, { cpuCount: 1, memoryMB: 512 })
  for (const [image, credentials] of [['open', undefined], ['closed', good]]) {
    const name = `js-${image}-${Date.now()}`
    await build(Template().fromImage(`${registry}/${image}/shell:v1`, credentials), name)
    const s = await make(name)
    assert.equal((await s.commands.run('cat made')).stdout, 'yes user\n')
    await s.kill()
    await Sandbox.deleteSnapshot(name)
  }
  for (const credentials of [undefined, { ...good, password: 'other-w0rd' }]) {
    const name = 'js-denied-' + Date.now()
    const err = await fails(() => build(Template().fromImage(`${registry}/closed/shell:v1`, credentials), name), 'BuildError')
    assert.ok(!err.message.includes('w0rd'), err.message)
    await Sandbox.deleteSnapshot(name)
  }
  const aws = { accessKeyId: 'a', secretAccessKey: 'b', region: 'c' }
  const err = await fails(() => build(Template().fromAWSRegistry(`${registry}/closed/shell:v1`, aws), 'js-aws'), 'BuildError')
  assert.match(err.message, /get-login-password/)
})
await check('Template', 'from an image, with files', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'template-'))
  mkdirSync(join(dir, 'app/deep'), { recursive: true })
  writeFileSync(join(dir, 'app/deep/two.txt'), 'two\n')
  writeFileSync(join(dir, 'single.txt'), 'single\n')
  const name = 'js-image-files-' + Date.now()
  const template = Template({ fileContextPath: dir })
    .fromImage(`${process.env.TEST_REGISTRY}/open/shell:v1`)
    .copy('app', 'app')
    .runCmd('cat app/deep/two.txt > copied')
    .copy('single.txt', '/opt/tool', { mode: 0o750, user: 'root' })
  await Template.build(template, name, { cpuCount: 1, memoryMB: 512 })
  rmSync(dir, { recursive: true })
  const s = await make(name)
  assert.equal(await s.files.read('copied'), 'two\n')
  assert.equal((await s.files.getInfo('app/deep/two.txt')).owner, 'user')
  const tool = await s.files.getInfo('/opt/tool')
  assert.deepEqual([tool.owner, tool.permissions, tool.size], ['root', '-rwxr-x---', 7])
  await s.kill()
  await Sandbox.deleteSnapshot(name)
})
await check('Template', 'in the background', async () => {
  const names = ['js-background-' + Date.now(), 'js-background-broken-' + Date.now()]
  const begin = (command, name) => Template.buildInBackground(Template().fromTemplate('base').runCmd(command), name, { cpuCount: 1, memoryMB: 512 })
  const ended = (info) => until(async () => {
    const status = await Template.getBuildStatus(info)
    return ['ready', 'error'].includes(status.status) ? status : undefined
  })
  const well = await begin('echo by and by | tee made', names[0])
  const ill = await begin('echo why >&2; exit 9', names[1])
  const good = await ended(well)
  assert.deepEqual([good.status, good.buildID], ['ready', well.buildId])
  assert.ok(good.logEntries.some((e) => e.message.includes('by and by')))
  const bad = await ended(ill)
  assert.equal(bad.status, 'error')
  assert.match(bad.reason.message, /9/)
  const s = await make(names[0])
  assert.equal(await s.files.read('made'), 'by and by\n')
  await s.kill()
  for (const name of names) await Sandbox.deleteSnapshot(name)
})
await check('Template', 'steps are made once, and anew where it is asked for', async () => {
  const names = []
  // build gives the steps' outcomes, each another one whenever it is made.
  const build = async (between = (t) => t, options = {}) => {
    const uuid = 'cat /proc/sys/kernel/random/uuid > '
    names.push('js-steps-' + Date.now())
    const template = between(Template().fromTemplate('base').runCmd(uuid + 'first')).runCmd(uuid + 'second')
    await Template.build(template, names.at(-1), { cpuCount: 1, memoryMB: 512, ...options })
    const s = await make(names.at(-1))
    const outcome = [await s.files.read('first'), await s.files.read('second')]
    await s.kill()
    return outcome
  }
  const once = await build(undefined, { skipCache: true })
  assert.deepEqual(await build(), once)
  const fromThere = await build((t) => t.skipCache())
  assert.notEqual(fromThere[1], once[1])
  const anew = await build(undefined, { skipCache: true })
  for (const i of [0, 1]) assert.ok(![once[i], fromThere[i]].includes(anew[i]))
  for (const name of names) await Sandbox.deleteSnapshot(name)
})
await check('Template', 'tags are listed, assigned and removed', async () => {
  const name = 'js-tags-' + Date.now()
  const build = (n, ...tags) => Template.build(Template().fromTemplate('base').runCmd(`echo ${n} > n`), name, { tags, cpuCount: 1, memoryMB: 512 })
  const one = await build(1, 'v1', 'stable')
  const two = await build(2, 'default')
  const shown = async () => Object.fromEntries((await Template.getTags(name)).map((t) => {
    assert.ok(t.createdAt instanceof Date && !Number.isNaN(t.createdAt.getTime()))
    return [t.tag, t.buildId]
  }))
  assert.deepEqual(await shown(), { default: two.buildId, v1: one.buildId, stable: one.buildId })
  assert.deepEqual(await Template.assignTags(name, ['v2', 'stable']), { buildId: two.buildId, tags: ['v2', 'stable'] })
  assert.equal((await Template.assignTags(name + ':v1', 'default')).buildId, one.buildId)
  await Template.removeTags(name, 'v1')
  await Template.removeTags(name, ['v1', 'never'])
  assert.deepEqual(await shown(), { default: one.buildId, v2: two.buildId, stable: two.buildId })
  for (const [ref, n] of [[name, '1'], [name + ':default', '1'], [name + ':stable', '2'], [two.buildId, '2']]) {
    const s = await make(ref)
    assert.equal((await s.commands.run('cat n')).stdout.trim(), n, ref)
    await s.kill()
  }
  await fails(() => make(name + ':v1'), 'SandboxError')
  await fails(() => Template.assignTags(name + ':none', 'x'), 'TemplateError')
  await fails(() => Template.removeTags(name, 'default'), 'TemplateError')
  await fails(() => Template.getTags(name + '-not'), 'TemplateError')
  await Sandbox.deleteSnapshot(name)
})
await check('Template', 'a command that fails', async () => {
  const err = await fails(() => Template.build(Template().fromTemplate('base').runCmd('echo why >&2; exit 9'), 'js-broken-' + Date.now(), { cpuCount: 1, memoryMB: 512 }), 'BuildError')
  assert.match(err.message, /9/)
})

await check('mcp', 'a gateway in a template of that name', async () => {
  const gateway = Template({ fileContextPath: dirname(fileURLToPath(import.meta.url)) }).fromTemplate('base')
    .copy('mcp-gateway', '/usr/local/bin/mcp-gateway', { mode: 0o755, user: 'root' })
  await Template.build(gateway, 'mcp-gateway', { cpuCount: 1, memoryMB: 512 })
  // Servers are added to a template of that name, which is one more build of it.
  await Template.build(Template().fromTemplate('mcp-gateway').addMcpServer(['exa', 'time']), 'mcp-gateway', { cpuCount: 1, memoryMB: 512 })
  const s = await make({ mcp: { exa: { apiKey: "it's a key" } } })
  const token = await s.getMcpToken()
  assert.equal(await s.files.read('/etc/mcp-gateway/.token', { user: 'root' }), token)
  assert.equal(s.getMcpUrl(), `https://${s.getHost(50005)}/mcp`)
  const ask = (bearer) => visit(s.getHost(50005), '/mcp', { Authorization: `Bearer ${bearer}`, 'Content-Type': 'application/json' },
    JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }))
  const listed = await ask(token)
  assert.deepEqual(JSON.parse(listed.body).result.tools.map((t) => [t.name, JSON.parse(t.description)]), [['exa', { apiKey: "it's a key" }]])
  assert.equal((await ask('another')).status, 401)
  assert.equal(await (await Sandbox.connect(s.sandboxId, patient)).getMcpToken(), token)
  await s.kill()
  const err = await fails(() => Sandbox.create({ mcp: { absent: {} } }), 'SandboxError')
  assert.match(err.message, /there is no server absent/)
  await Sandbox.deleteSnapshot('mcp-gateway')
})

await check('metrics', 'what it used before', async () => {
  const list = await until(async () => { const l = await sbx.getMetrics(); return l.length > 1 ? l : undefined })
  const [first] = list
  assert.ok(first.memUsed > 0 && first.memTotal > 0 && first.cpuUsedPct >= 0 && first.timestamp < list.at(-1).timestamp)
  const upTo = await sbx.getMetrics({ start: new Date(first.timestamp.getTime() - 1000), end: first.timestamp })
  assert.deepEqual(upTo[0], first)
  for (const m of upTo) assert.ok(m.timestamp - first.timestamp < 2000) // in whole seconds
  assert.deepEqual(await sbx.getMetrics({ start: new Date(1e9), end: new Date(2e9) }), [])
})

// What becomes of connections that break, by way of what breaks them as it is asked.
const BREAKER = process.env.TEST_BREAKER
const by = { apiUrl: BREAKER + '/e2b', sandboxUrl: BREAKER }
const broken = (name, f) => (BREAKER ? check('connections', name, f) : undefined)
const breakage = async (method, body) => {
  const res = await fetch(BREAKER + '/break', { method, body: body && JSON.stringify(body) })
  return method === 'GET' ? await res.json() : res.text()
}
const breaks = (method, path, how, more = {}) => breakage('PUT', { method, path, how, times: 1, ...more })
const attempts = async () => (await breakage('GET')).seen
const retrying = 'retries' in new e2b.ConnectionConfig()
const marked = (m) => all(Sandbox.list({ query: { metadata: { broken: m } } }))

await broken('a request that did not arrive makes nothing', async () => {
  const metadata = { broken: mark + ' unsent' }
  await breaks('POST', '/sandboxes', 'unsent')
  await fails(() => make('base', { ...by, metadata }), 'TypeError')
  assert.deepEqual([await attempts(), (await marked(metadata.broken)).length], [1, 0])
  await make('base', { ...by, metadata })
  assert.equal((await marked(metadata.broken)).length, 1)
})
await broken('a request whose answer is lost is not sent again', async () => {
  const metadata = { broken: mark + ' unanswered' }
  await breaks('POST', '/sandboxes', 'unanswered')
  await fails(() => make('base', { ...by, metadata }), 'TypeError')
  const [left, ...more] = await marked(metadata.broken)
  assert.deepEqual([await attempts(), more.length], [1, 0])
  await Sandbox.kill(left.sandboxId)
})
await broken('429 with Retry-After is heeded', async () => {
  await breaks('GET', sbx.sandboxId, 'refused', { status: 429, times: 2 })
  if (retrying) {
    assert.equal((await Sandbox.getInfo(sbx.sandboxId, by)).sandboxId, sbx.sandboxId)
    assert.equal(await attempts(), 3)
  } else {
    await fails(() => Sandbox.getInfo(sbx.sandboxId, by), 'RateLimitError')
    assert.equal(await attempts(), 1)
  }
})
await broken('503 with Retry-After', async () => {
  await breaks('GET', sbx.sandboxId, 'refused', { status: 503, times: 9 })
  await fails(() => Sandbox.getInfo(sbx.sandboxId, by), e2b.ServiceBusyError ? 'ServiceBusyError' : 'SandboxError')
  assert.equal(await attempts(), 1)
})
await broken('502, 503 and 504, which say nothing of when', async () => {
  const busy = ['SandboxError', 'ServiceBusyError']
  for (const status of [502, 503, 504]) {
    await breaks('GET', sbx.sandboxId, 'refused', { status, times: 9, mute: true })
    await fails(() => Sandbox.getInfo(sbx.sandboxId, by), ...busy)
    assert.equal(await attempts(), 1)
  }
  const metadata = { broken: mark + ' refused' }
  await breaks('POST', '/sandboxes', 'refused', { status: 502, times: 2, mute: true })
  await fails(() => make('base', { ...by, metadata }), ...busy)
  assert.deepEqual([await attempts(), (await marked(metadata.broken)).length], [1, 0])
})
await broken('a connection that cannot be made', async () => {
  const server = http.createServer()
  await new Promise((r) => server.listen(0, '127.0.0.1', r))
  const { port } = server.address()
  await new Promise((r) => server.close(r))
  await fails(() => Sandbox.getInfo('a'.repeat(20), { apiUrl: `http://127.0.0.1:${port}/e2b` }), 'TypeError')
})
await broken('a request to the API that stalls', async () => {
  await breaks('GET', sbx.sandboxId, 'stalled')
  await fails(() => Sandbox.getInfo(sbx.sandboxId, { ...by, requestTimeoutMs: 500 }), 'DOMException')
  assert.equal((await Sandbox.getInfo(sbx.sandboxId, by)).state, 'running')
})
await broken('a request to a sandbox that stalls', async () => {
  const s = await Sandbox.connect(sbx.sandboxId, { ...patient, ...by })
  await breaks('POST', '/Start', 'stalled')
  await fails(() => s.commands.run('true', { requestTimeoutMs: 500 }), 'TimeoutError')
  await breaks('POST', '/Stat', 'stalled')
  await fails(() => s.files.getInfo('/', { requestTimeoutMs: 500 }), 'TimeoutError')
  await breaks('GET', '/files', 'stalled')
  await fails(() => s.files.read('/etc/hostname', { requestTimeoutMs: 500 }), 'DOMException')
  assert.equal((await s.commands.run('echo on')).stdout, 'on\n')
})
await broken('a command whose stream breaks runs on, and is found by its number', async () => {
  const s = await Sandbox.connect(sbx.sandboxId, { ...patient, ...by })
  await breaks('POST', '/none', '')
  let heard
  const begun = new Promise((r) => { heard = r })
  const cmd = await s.commands.run('echo begun; read a; seq 1 100000; exit 3', { background: true, stdin: true, onStdout: heard })
  const ended = fails(() => cmd.wait(), 'SandboxError')
  assert.equal(await Promise.race([begun, ended.then((err) => err.message)]), 'begun\n')
  await breakage('DELETE')
  await ended
  const again = await s.commands.connect(cmd.pid)
  await s.commands.sendStdin(cmd.pid, 'go\n')
  const end = await fails(() => again.wait(), 'CommandExitError')
  assert.equal(end.exitCode, 3)
  assert.equal(end.stdout, Array.from({ length: 100000 }, (_, i) => i + 1 + '\n').join(''))
})
await broken('a command whose output nobody takes any more comes to its end', async () => {
  const s = await Sandbox.connect(sbx.sandboxId, { ...patient, ...by })
  await breaks('POST', '/Start', 'download', { bytes: 100_000 })
  let got = ''
  await fails(() => s.commands.run('seq 1 1000000; echo whole > /tmp/js-whole', { onStdout: (d) => { got += d } }), 'SandboxError')
  const numbers = got.split('\n').slice(0, -1)
  assert.ok(numbers.length > 0 && numbers.every((n, i) => n === String(i + 1)), 'what came is not the beginning')
  await until(async () => (await sbx.files.exists('/tmp/js-whole')) && (await sbx.files.read('/tmp/js-whole')) === 'whole\n')
})
await broken('half an upload changes nothing', async () => {
  const s = await Sandbox.connect(sbx.sandboxId, { ...patient, ...by })
  await sbx.files.write('halves/old', 'as it was')
  for (const name of ['old', 'new']) {
    await breaks('POST', '/files', 'upload', { bytes: 1 << 20 })
    await fails(() => s.files.write('halves/' + name, 'x'.repeat(8 << 20)), 'TypeError')
  }
  await until(async () => (await sbx.commands.run('ls -A halves')).stdout === 'old\n')
  assert.equal(await sbx.files.read('halves/old'), 'as it was')
  await s.files.write('halves/old', 'y'.repeat(8 << 20))
  assert.equal((await sbx.commands.run('stat -c "%U %s" halves/old')).stdout, `user ${8 << 20}\n`)
})
await broken('half a download is an error', async () => {
  const s = await Sandbox.connect(sbx.sandboxId, { ...patient, ...by })
  await sbx.commands.run('base64 -w 0 /dev/urandom | head -c 8000000 > halves/down')
  for (const format of ['text', 'bytes']) {
    await breaks('GET', '/files', 'download', { bytes: 1 << 20 })
    await fails(() => s.files.read('halves/down', { format }), 'TypeError')
    assert.equal((await s.files.read('halves/down', { format })).length, 8000000)
  }
})

// What is asked of a sandbox or a process that is not there, and how each fails.
let killed
const gone = () => (killed ??= make('base').then(async (s) => { await s.kill(); return s }))
const nobody = 999_999
for (const [feature, name, f, kind] of [
  ['setTimeout', 'a sandbox that there is not', (s) => s.setTimeout(60_000), 'SandboxNotFoundError'],
  ['pause', 'a sandbox that there is not', (s) => s.pause(), 'SandboxNotFoundError'],
  ['snapshots', 'a sandbox that there is not', (s) => s.createSnapshot(), 'SandboxNotFoundError'],
  ['fork', 'a sandbox that there is not', (s) => s.fork(), 'SandboxNotFoundError'],
  ['metrics', 'a sandbox that there is not', (s) => s.getMetrics(), 'SandboxNotFoundError'],
  ['network', 'a sandbox that there is not', (s) => s.updateNetwork({}), 'SandboxNotFoundError'],
  ['files', 'a sandbox that there is not', (s) => s.files.read('/etc/hostname'), 'TimeoutError'],
  ['list', 'a token of no page', () => Sandbox.list({ nextToken: 'bad' }).nextItems(), 'SandboxError'],
  ['list', 'a token of no page of snapshots', () => Sandbox.listSnapshots({ nextToken: 'bad' }).nextItems(), 'SandboxError'],
  ['commands', 'input to a process that there is not', () => sbx.commands.sendStdin(nobody, 'x'), 'NotFoundError'],
  ['commands', 'no more input to a process that there is not', () => sbx.commands.closeStdin(nobody), 'NotFoundError'],
  ['pty', 'a terminal that there is not, connected to', () => sbx.pty.connect(nobody), 'NotFoundError'],
  ['pty', 'a terminal that there is not, resized', () => sbx.pty.resize(nobody, { cols: 80, rows: 24 }), 'NotFoundError'],
  ['pty', 'input to a terminal that there is not', () => sbx.pty.sendInput(nobody, new Uint8Array([10])), 'NotFoundError'],
]) await check(feature, name, async () => { const s = await gone(); await fails(() => f(s), kind) })

const volumes = async (name, f) => {
  if (Volume) await check('Volume', name, f)
  else if (!FEATURES || FEATURES.includes('Volume')) tell({ feature: 'Volume', check: name, skip: 'this version has none' })
}
const volume = (name) => Volume.create(`${name}-${Date.now()}`)
// destroyed tells whether it could be: sandboxes take a moment to end.
const destroyed = (v) => Volume.destroy(v.volumeId).catch((err) => { if (err?.name !== 'VolumeError') throw err; return false })

await volumes('create, list, look at and destroy', async () => {
  const v = await volume('js')
  assert.ok(v.volumeId && v.token)
  const info = await Volume.getInfo(v.volumeId)
  assert.deepEqual([info.volumeId, info.name, info.token], [v.volumeId, v.name, v.token])
  assert.deepEqual((await Volume.list()).filter((i) => i.volumeId === v.volumeId).map((i) => i.name), [v.name])
  await fails(() => Volume.create(v.name), 'VolumeError')
  assert.equal(await Volume.destroy(v.volumeId), true)
  assert.equal(await Volume.destroy(v.volumeId), false)
  await fails(() => Volume.getInfo(v.volumeId), 'VolumeNotFoundError')
})
await volumes('files: write, read, list, make, change and remove', async () => {
  const v = await Volume.connect((await volume('js-files')).volumeId)
  const e = await v.writeFile('/a.txt', 'héllo')
  assert.deepEqual([e.path, e.name, e.size, e.uid, e.mode & 0o777], ['/a.txt', 'a.txt', 6, 1000, 0o644])
  assert.equal(await v.readFile('a.txt'), 'héllo')
  const bytes = new Uint8Array(1_000_000).map((_, i) => i % 251)
  await v.writeFile('b', new Blob([bytes]).stream())
  assert.deepEqual(await v.readFile('b', { format: 'bytes' }), bytes)
  let n = 0
  for await (const chunk of await v.readFile('b', { format: 'stream' })) n += chunk.length
  assert.equal(n, bytes.length)
  await v.writeFile('a.txt', 'again', { mode: 0o600, uid: 1234 })
  const now = await v.getInfo('a.txt')
  assert.deepEqual([now.size, now.uid, now.gid, now.mode & 0o777], [5, 1234, 1000, 0o600])
  assert.ok(now.mtime instanceof Date && !Number.isNaN(now.mtime.getTime()))
  assert.equal((await v.updateMetadata('a.txt', { mode: 0o640, gid: 7 })).gid, 7)
  const missing = 'VolumePathNotFoundError'
  await fails(() => v.makeDir('d/e'), missing)
  assert.equal((await v.makeDir('d/e', { force: true })).type, 'directory')
  await v.writeFile('d/e/f', 'x')
  assert.deepEqual((await v.list('/')).map((e) => e.path), ['/a.txt', '/b', '/d'])
  assert.deepEqual((await v.list('/d', { depth: 2 })).map((e) => e.path), ['/d/e', '/d/e/f'])
  assert.deepEqual([await v.exists('d/e/f'), await v.exists('d/none')], [true, false])
  await v.remove('d')
  assert.equal(await v.exists('d'), false)
  for (const f of ['getInfo', 'readFile', 'remove', 'list']) await fails(() => v[f]('none'), missing)
  await fails(() => new Volume(v.volumeId, v.name, '0'.repeat(40), v.domain).readFile('a.txt'), 'AuthenticationError')
  assert.equal(await Volume.destroy(v.volumeId), true)
})
await volumes('in several sandboxes at once, and after them', async () => {
  const v = await volume('js-shared')
  await v.writeFile('given', 'from outside')
  const a = await make('base', { volumeMounts: { '/mnt/data': v } })
  const b = await make('base', { volumeMounts: { '/data/deep': v.name } })
  assert.deepEqual((await a.getInfo()).volumeMounts, [{ name: v.name, path: '/mnt/data' }])
  assert.equal((await a.commands.run('cat /mnt/data/given; mkdir /mnt/data/d; echo a >/mnt/data/d/f')).stdout, 'from outside')
  assert.equal((await b.commands.run('cat /data/deep/d/f; echo b >>/data/deep/d/f; ln -s /etc/passwd /data/deep/link')).stdout, 'a\n')
  assert.equal(await a.files.read('/mnt/data/d/f'), 'a\nb\n')
  assert.equal((await v.getInfo('link')).target, '/etc/passwd')
  await fails(() => v.readFile('link'), 'VolumeError')
  await fails(() => Volume.destroy(v.volumeId), 'VolumeError')
  await Promise.all([a.kill(), b.kill()])
  assert.equal(await v.readFile('d/f'), 'a\nb\n')
  await until(() => destroyed(v))
})
await volumes('where a sandbox cannot have one', async () => {
  const v = await volume('js-where')
  for (const path of ['/etc', '/proc/x', 'relative', '/mnt/../etc', '/']) {
    await fails(() => make('base', { volumeMounts: { [path]: v } }), 'SandboxError')
  }
  await fails(() => make('base', { volumeMounts: { '/mnt/a': v, '/mnt/a/b': v } }), 'SandboxError')
  await fails(() => make('base', { volumeMounts: { '/mnt/a': 'no-such-volume' } }), 'SandboxError')
  assert.equal(await Volume.destroy(v.volumeId), true)
})

await check('kill', 'once and again', async () => {
  const s = await make('base')
  assert.equal(await s.kill(), true)
  assert.equal(await s.kill(), false)
  assert.equal(await s.isRunning(), false)
  await fails(() => s.commands.run('true'), 'SandboxNotFoundError')
})
await check('kill', 'while a command streams', async () => {
  const s = await make('base')
  const cmd = await s.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const ended = fails(() => cmd.wait(), 'TimeoutError')
  await s.kill()
  await ended
})

for (const s of made) await s.kill().catch(() => {})
tell({ done: true })
process.exit(0)
