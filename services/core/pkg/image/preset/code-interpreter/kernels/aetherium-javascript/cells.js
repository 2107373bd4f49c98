// Runs cells: one order in JSON a line on one descriptor, one answer a line on
// the other. Cells are evaluated as in Node's own read-eval-print loop.
'use strict';

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { createRequire } = require('node:module');
const { PassThrough } = require('node:stream');
const readline = require('node:readline');
const repl = require('node:repl');
const util = require('node:util');

const [cells, answers] = process.argv.slice(2).map(Number);
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

function run(code) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(Object.assign(new Error('the execution was interrupted'), { name: 'Interrupted' }));
    interrupt = stop;
    failed = reject;
    evaluate.call(loop, code + '\n', loop.context, 'cell', (error, value) => (error ? reject(error) : resolve(value)));
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
  return (below < 0 ? all : all.slice(0, below)).join('\n');
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
