// What E2B's code interpreter SDK for JavaScript does, by the package that is
// installed in the working directory. Each check prints one line of JSON.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const { resolve } = createRequire(path.join(process.cwd(), 'x.js'));
const sdk = await import(pathToFileURL(resolve('@e2b/code-interpreter')).href);
const { Sandbox, NotFoundError, SandboxError, TimeoutError } = sdk.Sandbox ? sdk : sdk.default;

// TEST_LIMIT is how many seconds a check may take, which only ends one that hangs.
const LIMIT = Number(process.env.TEST_LIMIT ?? 300) * 1000;
const checks = [];
const check = (name, f) => checks.push([name, f]);
const wrote = (execution) => execution.logs.stdout.join('');
const texts = (xs) => xs.map((x) => x.line).join('');

check('runCode: text, results and the count', async (s) => {
  const first = await s.runCode('x = 20\nx * 2 + 2');
  assert.deepEqual([first.text, first.error, wrote(first)], ['42', undefined, '']);
  const second = await s.runCode("print(x)\n'a string'");
  assert.deepEqual([second.text, wrote(second), second.executionCount], ['a string', '20\n', first.executionCount + 1]);
});

check('runCode: errors', async (s) => {
  const { error } = await s.runCode("def f():\n    raise ValueError('no')\nf()");
  assert.deepEqual([error.name, error.value], ['ValueError', 'no']);
  assert.match(error.traceback, /raise/);
});

check('runCode: callbacks', async (s) => {
  const out = [];
  const err = [];
  const results = [];
  const errors = [];
  await s.runCode(
    "import sys\nfrom IPython.display import HTML, display\nprint('o \u00fc \u{1f600}' * 1000)\nprint('e', file=sys.stderr)\ndisplay(HTML('<b>h</b>'))\n1/0",
    { onStdout: (m) => out.push(m), onStderr: (m) => err.push(m), onResult: (r) => results.push(r), onError: (e) => errors.push(e) },
  );
  assert.deepEqual([texts(out), texts(err)], ['o \u00fc \u{1f600}'.repeat(1000) + '\n', 'e\n']);
  assert.deepEqual([results.map((r) => r.html), errors.map((e) => e.name)], [['<b>h</b>'], ['ZeroDivisionError']]);
});

check('runCode: environments', async (s) => {
  const code = "import os\nos.environ.get('FROM_SANDBOX'), os.environ.get('FROM_CALL')";
  assert.equal((await s.runCode(code, { envs: { FROM_CALL: 'b c' } })).text, "('a', 'b c')");
  assert.equal((await s.runCode(code)).text, "('a', None)");
});

check('runCode: every kind of result', async (s) => {
  const [r] = (
    await s.runCode(
      "from IPython.display import display\ndisplay({'text/markdown': 'm', 'image/svg+xml': '<svg/>', 'image/png': 'cG5n', 'image/jpeg': 'anBn', 'application/pdf': 'cGRm', 'text/latex': 'l', 'application/json': {'a': 1}, 'application/javascript': 'j'}, raw=True)",
    )
  ).results;
  assert.deepEqual([r.markdown, r.svg, r.png, r.jpeg, r.pdf, r.latex, r.json, r.javascript, r.isMainResult], ['m', '<svg/>', 'cG5n', 'anBn', 'cGRm', 'l', { a: 1 }, 'j', false]);
});

check('runCode: tables and charts', async (s) => {
  assert.deepEqual((await s.runCode("import pandas\npandas.DataFrame({'a': [1, 2]})")).results[0].data, { a: [1, 2] });
  const { chart } = (await s.runCode("import matplotlib.pyplot as plt\nplt.pie([1, 3], labels=['p', 'q'])\nplt.title('T')\nplt.show()")).results[0];
  assert.deepEqual(chart, { type: 'pie', title: 'T', elements: [{ label: 'p', angle: 90, radius: 1 }, { label: 'q', angle: 270, radius: 1 }] });
});

check('runCode: languages', async (s) => {
  assert.equal(wrote(await s.runCode('x=1; echo $x', { language: 'bash' })), '1\n');
  assert.equal((await s.runCode('const x = await Promise.resolve(20); x + 1', { language: 'js' })).text, '21');
  assert.equal((await s.runCode("import { basename } from 'node:path';\nconst n: string = basename('/a/b'); n as any", { language: 'typescript' })).text, 'b');
  await assert.rejects(s.runCode('1', { language: 'cobol' }), SandboxError);
});

check('contexts: made, listed, restarted and removed', async (s) => {
  const c = await s.createCodeContext({ cwd: '/tmp', language: 'python' });
  assert.deepEqual([c.cwd, c.language], ['/tmp', 'python']);
  assert.equal((await s.runCode('import os\ny = 1\nos.getcwd()', { context: c })).text, '/tmp');
  assert.equal((await s.runCode('y')).error.name, 'NameError');
  assert.ok((await s.listCodeContexts()).some((x) => x.id === c.id));
  await s.restartCodeContext(c);
  assert.equal((await s.runCode('y', { context: c })).error.name, 'NameError');
  await s.removeCodeContext(c);
  assert.ok(!(await s.listCodeContexts()).some((x) => x.id === c.id));
  await assert.rejects(s.runCode('1', { context: c }), NotFoundError);
});

check('runCode: a timeout ends what runs', async (s) => {
  await assert.rejects(s.runCode('while True: pass', { timeoutMs: 2000 }), TimeoutError);
  assert.equal((await s.runCode('1')).text, '1');
});

check('runCode: a kernel that ends', async (s) => {
  assert.equal((await s.runCode('import os\nos._exit(1)')).error.name, 'KernelEnded');
  assert.equal((await s.runCode('1')).text, '1');
});

check('files: beside it', async (s) => {
  await s.files.write('/home/user/data.txt', 'from files');
  assert.equal((await s.runCode("open('data.txt').read()")).text, 'from files');
});

check('runCode: a sandbox that is killed', async (s) => {
  await assert.rejects(s.runCode("print('begun', flush=True)\nwhile True: pass", { onStdout: () => void s.kill() }), TimeoutError);
  await assert.rejects(s.runCode('1'), TimeoutError);
});

const late = () => new Promise((_, reject) => setTimeout(() => reject(new Error('it did not end in time')), LIMIT).unref());
const s = await Sandbox.create({ timeoutMs: 3_600_000, envs: { FROM_SANDBOX: 'a' }, requestTimeoutMs: LIMIT });
const wanted = process.env.TEST_CHECKS?.split(',');
for (const [name, f] of checks) {
  if (wanted && !wanted.includes(name)) continue;
  const [feature, check] = name.split(': ');
  let line = { feature, check, ok: true };
  try {
    await Promise.race([f(s), late()]);
  } catch (e) {
    line = { feature, check, ok: false, error: `${e.name}: ${e.message}` };
  }
  console.log(JSON.stringify(line));
}
await s.kill().catch(() => {});
console.log(JSON.stringify({ done: true }));
process.exit(0);
