// Runs cells: one order in JSON a line on one descriptor, one answer a line on
// the other. Cells are evaluated as in Node's own read-eval-print loop.
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const { SourceMap } = require('node:module');
const net = require('node:net');
const path = require('node:path');
const { createRequire } = require('node:module');
const { PassThrough } = require('node:stream');
const readline = require('node:readline');
const repl = require('node:repl');
const util = require('node:util');

const [cells, answers] = process.argv.slice(2, 4).map(Number);
const typescript = process.argv[4] === 'typescript';
const before = [];
let interrupt = () => {};
let failed = uncaught;

// Its own prompt and output are nobody's.
const loop = repl.start({ prompt: '', input: new PassThrough(), output: new PassThrough(), useGlobal: true, breakEvalOnSigint: true, terminal: false });
const evaluate = loop.eval;
Object.defineProperty(global, 'require', { value: createRequire(path.join(process.cwd(), 'cell.js')), writable: true, configurable: true });
loop.removeAllListeners('SIGINT');
// Where the loop tells of what a cell threw.
loop._domain?.removeAllListeners('error');
loop._domain?.on('error', (e) => failed(e));
process.on('SIGINT', () => interrupt());
// What a cell left running must not end the others.
process.on('uncaughtException', (e) => failed(e));
process.on('unhandledRejection', uncaught);
process.argv.length = 1;

function uncaught(e) {
  console.error('Uncaught', e);
}

function environment(what, env) {
  if (what === 'enter') {
    before.push(Object.fromEntries(Object.keys(env).map((name) => [name, process.env[name]])));
  }
  if (what === 'leave') {
    for (const [name, value] of Object.entries(before.pop() ?? {})) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    return;
  }
  Object.assign(process.env, env);
}

// Source maps of the last cells that were translated, by the cell's name.
const maps = new Map();
const KEPT_MAPS = 100;

// An import statement in the one way that esbuild writes it: a default, all
// or some of a module, and from where.
const IMPORT = /^import (?:([^\s,{}*"]+)?(?:, )?(?:\* as ([^\s,{}*"]+)|\{([^}]*)\})? from )?("(?:[^"\\]|\\.)*");$/gm;

// What Node's loop runs of a cell: TypeScript without its types, and imports at
// its head, which the loop knows none of, as what is awaited. What they name can
// be named again, by the same cell for one.
function translated(code, name) {
  if (!typescript && !/^\s*import\b(?!\s*[(.])/.test(code)) return code;
  const options = ['--log-level=error', '--color=false', '--sourcemap=inline', '--charset=utf8'];
  if (typescript) options.push('--loader=ts', `--tsconfig-raw=${JSON.stringify({ compilerOptions: { verbatimModuleSyntax: true, preserveValueImports: true } })}`);
  const { status, error, stdout, stderr } = spawnSync('esbuild', options, { input: code, encoding: 'utf8', maxBuffer: 256 << 20 });
  if (error) throw error;
  if (status !== 0) throw misspelt(stderr, name);
  const end = stdout.lastIndexOf('//# sourceMappingURL=');
  maps.set(name, new SourceMap(JSON.parse(Buffer.from(stdout.slice(stdout.indexOf(',', end) + 1), 'base64').toString())));
  maps.delete([...maps.keys()].at(-KEPT_MAPS - 1));
  return awaited(stdout.slice(0, end));
}

function awaited(code) {
  let head = 0;
  IMPORT.lastIndex = 0;
  const parts = [];
  for (let found; (found = IMPORT.exec(code)) !== null && code.slice(head, found.index).trim() === ''; head = IMPORT.lastIndex) {
    const [statement, own, all, some, from] = found;
    const lines = '\n'.repeat(statement.split('\n').length - 1);
    const what = `await import(${from})`;
    parts.push(code.slice(head, found.index));
    if (all) parts.push(`var ${all} = ${what};${own ? ` var { default: ${own} } = ${all};` : ''}`, lines);
    else if (own || some?.trim()) {
      const names = some ? some.split(',').map((n) => n.trim().replace(/ as /, ': ')).filter(Boolean) : [];
      parts.push(`var { ${[...(own ? [`default: ${own}`] : []), ...names].join(', ')} } = ${what};`, lines);
    } else parts.push(`${what};`, lines);
  }
  return parts.join('') + code.slice(head);
}

// The error that esbuild tells of.
function misspelt(text, name) {
  const [, message = text] = /\[ERROR\] (.*)/.exec(text) ?? [];
  const [, line, column] = /<stdin>:(\d+):(\d+)/.exec(text) ?? [];
  const e = new SyntaxError(message);
  e.stack = `SyntaxError: ${message}` + (line ? `\n    at ${name}:${line}:${Number(column) + 1}` : '');
  return e;
}

// A stack with the lines that were written, not those that ran.
function written(stack) {
  return stack.replace(/\b(cell-\d+):(\d+):(\d+)/g, (as, name, line, column) => {
    const at = maps.get(name)?.findEntry(line - 1, column - 1);
    return at?.originalLine === undefined ? as : `${name}:${at.originalLine + 1}:${at.originalColumn + 1}`;
  });
}

let count = 0;

function run(code) {
  const name = `cell-${++count}`;
  return new Promise((resolve, reject) => {
    const stop = () => reject(Object.assign(new Error('the execution was interrupted'), { name: 'Interrupted' }));
    interrupt = stop;
    failed = reject;
    evaluate.call(loop, translated(code, name) + '\n', loop.context, name, (error, value) => (error ? reject(error) : resolve(value)));
  }).finally(() => {
    interrupt = () => {};
    failed = uncaught;
  });
}

// MIME types and content of a value; nothing of undefined.
function shown(value) {
  if (value === undefined) return undefined;
  const data = {};
  if (value !== null && typeof value === 'object') {
    for (const [name, mime] of [['_toHtml', 'text/html'], ['_toSvg', 'image/svg+xml'], ['_toPng', 'image/png'], ['_toJpeg', 'image/jpeg'], ['_toMd', 'text/markdown']]) {
      if (typeof value[name] === 'function') data[mime] = String(value[name]());
    }
  }
  data['text/plain'] = typeof value === 'string' ? value : util.inspect(value);
  return data;
}

function told(e) {
  if (e instanceof repl.Recoverable) e = e.err; // more could follow: nothing does
  if (e instanceof Error || (e !== null && typeof e === 'object' && 'message' in e)) {
    return { name: String(e.name ?? 'Error'), value: String(e.message), stack: ownPart(String(e.stack ?? e.message)) };
  }
  return { name: 'Error', value: util.inspect(e), stack: util.inspect(e) };
}

// A stack without what is below the cell.
function ownPart(stack) {
  const all = stack.split('\n');
  const below = all.findIndex((line) => /^ +at .*(node:vm:|node:internal\/vm:|cells\.js:)/.test(line));
  return written((below < 0 ? all : all.slice(0, below)).join('\n'));
}

async function carryOut(order) {
  if (order.environment !== undefined) {
    environment(order.environment, order.env);
    return {};
  }
  try {
    return { data: shown(await run(order.code)) };
  } catch (e) {
    return { error: told(e) };
  }
}

async function main() {
  const orders = readline.createInterface({ input: new net.Socket({ fd: cells, readable: true, writable: false }), crlfDelay: Infinity });
  for await (const line of orders) {
    let answer;
    try {
      answer = await carryOut(JSON.parse(line));
    } catch (e) {
      answer = { error: told(e) };
    }
    fs.writeSync(answers, JSON.stringify(answer) + '\n');
  }
  process.exit(0);
}

main();
