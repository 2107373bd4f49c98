import os
import unittest

from .harness import WithServer


class Bash(WithServer):
    def run_code(self, code, **body):
        return self.server.run(code, language="bash", **body)

    def test_one_shell_runs_all(self):
        ran = self.run_code('x=1; f() { echo "f $1"; }; cd /; echo err >&2; cat')
        self.assertEqual((ran.stdout, ran.stderr, ran.errors), ("", "err\n", []))
        self.assertEqual(self.run_code("f $x; pwd; seq 30000 | tail -n 1").stdout, "f 1\n/\n30000\n")
        self.assertEqual(self.run_code("cat <<END\nhere $x\nEND\nprintenv PS1 PS2 || echo none").stdout, "here 1\nnone\n")

    def test_tells_of_a_status(self):
        self.assertEqual([(e["name"], e["value"]) for e in self.run_code("(exit 7)").errors], [("ExitStatus", "7")])
        ran = self.run_code("if")
        self.assertIn("syntax error", ran.stderr)
        self.assertEqual(ran.errors[0]["name"], "ExitStatus")

    def test_an_exit_begins_anew(self):
        self.run_code("y=1")
        ran = self.run_code("echo last; exit 4")
        self.assertEqual((ran.stdout, ran.errors[0]["name"]), ("last\n", "ProgramEnded"))
        self.assertEqual(self.run_code("echo $y.").stdout, ".\n")

    def test_has_an_environment_for_one_execution(self):
        self.run_code("export BOTH=before")
        code = 'echo "$ONE|$BOTH"; printenv BOTH; declare -p | grep -c __aetherium; true'
        self.assertEqual(self.run_code(code, env_vars={"ONE": "it's $x", "BOTH": "during"}).stdout.splitlines()[:2], ["it's $x|during", "during"])
        self.assertEqual(self.run_code(code).stdout, "|before\nbefore\n0\n")

    def test_who_goes_away_is_interrupted_for(self):
        with self.server.stream("echo begun; sleep 600; echo not this > reached", language="bash") as events:
            next(e for e in events if e["type"] == "stdout")
        self.assertEqual(self.run_code("z=ok; echo $z").stdout, "ok\n")
        self.assertFalse(os.path.exists(os.path.join(self.server.home.name, "reached")))

    def test_what_goes_on_behind_holds_nothing_up(self):
        self.assertEqual(self.run_code("sleep 600 & echo begun").stdout, "begun\n")
        self.assertEqual(self.run_code("kill %1 2>/dev/null || kill $!; echo ended").stdout, "ended\n")


class JavaScript(WithServer):
    def run_code(self, code, language="javascript", **body):
        return self.server.run(code, language=language, **body)

    def test_one_program_runs_all(self):
        ran = self.run_code("const x = 20; let f = (n) => n + 1; console.log('out'); console.error('err'); f(x) * 2")
        self.assertEqual((ran.stdout, ran.stderr, ran.main, ran.errors), ("out\n", "err\n", "42", []))
        self.assertEqual(self.run_code("f(x)", language="js").main, "21")
        self.assertEqual(self.run_code("({ a: [1] })").main, "{ a: [ 1 ] }")
        self.assertIsNone(self.run_code("undefined").main)

    def test_waits_for_what_is_awaited(self):
        self.assertEqual(self.run_code("const { readFile } = require('node:fs/promises'); (await readFile('/etc/passwd')).length > 0").main, "true")

    def test_tells_of_errors(self):
        for code, name, value in (
            ("throw new TypeError('no')", "TypeError", "no"), ("await Promise.reject(new RangeError('far'))", "RangeError", "far"),
            ("throw 3", "Error", "3"), ("nowhere", "ReferenceError", "nowhere is not defined"), ("f(", "SyntaxError", "Unexpected end of input"),
        ):  # fmt: skip
            with self.subTest(code=code):
                (error,) = self.run_code(code).errors
                self.assertEqual((error["name"], error["value"]), (name, value))
                self.assertNotIn("cells.js", error["traceback"])
        self.assertEqual(self.run_code("setTimeout(() => { throw new Error('late') }); await new Promise(() => {})").errors[0]["value"], "late")
        self.assertEqual(self.run_code("1").main, "1")

    def test_an_exit_begins_anew(self):
        self.run_code("var here = 1")
        self.assertEqual(self.run_code("process.exit(4)").errors[0]["name"], "ProgramEnded")
        self.assertEqual(self.run_code("typeof here").main, "undefined")

    def test_has_an_environment_for_one_execution(self):
        self.assertEqual(self.run_code("process.env.ONE", env_vars={"ONE": "it's $x"}).main, "it's $x")
        self.assertIsNone(self.run_code("process.env.ONE").main)

    def test_who_goes_away_is_interrupted_for(self):
        for code in ("while (true) {}", "await new Promise(() => {})"):
            with self.server.stream("console.log('begun'); await 0; " + code, language="javascript") as events:
                next(e for e in events if e["type"] == "stdout")
            self.assertEqual(self.run_code("'on'").main, "on")

    def test_imports_what_it_names(self):
        with open(os.path.join(self.server.home.name, "own.mjs"), "w") as f:
            f.write("export default 'd'; export const a = 1, b = 2;")
        code = "import own, { a as one, b } from './own.mjs';\nimport * as path from \"node:path\"\nimport 'node:fs';\n[own, one, b, path.basename('/x/y')].join()"
        for _ in range(2):
            self.assertEqual(self.run_code(code).main, "d,1,2,y")
        self.assertEqual(self.run_code("path.sep + one").main, "/1")
        self.assertEqual(self.run_code("import nothing from './nowhere.mjs'").errors[0]["name"], "Error")
        self.assertEqual(self.run_code("(await import('./own.mjs')).b").main, "2")


class TypeScript(WithServer):
    def run_code(self, code, language="typescript", **body):
        return self.server.run(code, language=language, **body)

    def test_types_are_not_run(self):
        ran = self.run_code(
            "import { type PathLike, readFileSync } from 'node:fs';\ninterface A { n: number }\nenum E { One = 1, Two }\n"
            "class P { constructor(readonly name: string) {} }\nconst a = { n: await Promise.resolve(3) } satisfies A;\n"
            "console.log(new P('p').name, E[2]);\n(a as A).n!"
        )
        self.assertEqual((ran.stdout, ran.errors, ran.main), ("p Two\n", [], "3"))
        self.assertEqual(self.run_code("function f<T>(x: T): T { return x }\nf<number>(a.n) + E.Two + readFileSync('/dev/null').length", language="ts").main, "5")
        self.assertEqual(self.run_code("const wrong: string = 3 as any; typeof wrong").main, "number")

    def test_text_stays_as_it_is(self):
        text = "`\nimport x from \"y\";\n  ü\n`"
        self.assertEqual(self.run_code(text).main, '\nimport x from "y";\n  ü\n')

    def test_errors_are_where_they_were_written(self):
        (error,) = self.run_code("type T = {\n  a: 1\n}\n\nfunction boom(x: number) {\n  throw new TypeError('no')\n}\nboom(1)").errors
        self.assertEqual((error["name"], error["value"]), ("TypeError", "no"))
        self.assertRegex(error["traceback"], r"at boom \(cell-\d+:6:9\)")
        (error,) = self.run_code("// later\n\n\nboom(2)").errors  # in the cell before
        self.assertRegex(error["traceback"], r"at boom \(cell-\d+:6:9\)(?s:.*)cell-\d+:4:1")
        (error,) = self.run_code("let ok = 1;\nlet x: = 2").errors
        self.assertEqual(error["name"], "SyntaxError")
        self.assertRegex(error["traceback"], r"at cell-\d+:2:8")

    def test_it_is_a_program_of_its_own(self):
        self.assertIsNone(self.run_code("var mine: number = 1; undefined").main)
        self.assertEqual(self.server.run("typeof mine", language="javascript").main, "undefined")
        self.assertEqual(self.run_code("process.env.ONE as string", env_vars={"ONE": "it's $x"}).main, "it's $x")
        self.assertEqual(self.run_code("process.argv.length + Number(mine)").main, "2")


class Formats(WithServer):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.server.run("import pandas, matplotlib.pyplot as plt").errors:
            raise unittest.SkipTest("pandas or matplotlib is not installed")

    def chart(self, code):
        ran = self.server.run(code + "\nplt.show()")
        self.assertEqual((ran.errors, len(ran.results)), ([], 1))
        self.assertTrue(ran.results[0]["png"].startswith("iVBOR"))
        return ran.results[0]["chart"]

    def test_tables_come_with_their_data(self):
        ran = self.server.run("pandas.DataFrame({'n': [1, 2], 'f': [1.5, float('nan')], 't': pandas.to_datetime(['2024-01-02', None])})")
        self.assertEqual(ran.results[0]["data"], {"n": [1, 2], "f": [1.5, None], "t": ["2024-01-02T00:00:00", None]})
        self.assertIn("<table", ran.results[0]["html"])

    def test_lines_and_points(self):
        chart = self.chart("plt.plot([1, 2], [3, 4], label='L')\nplt.title('T')\nplt.xlabel('time (s)')\nplt.ylabel('y')\nplt.yscale('log')")
        self.assertEqual(
            {k: v for k, v in chart.items() if "tick" not in k},
            {
                "type": "line", "title": "T", "x_label": "time (s)", "x_unit": "s", "y_label": "y", "y_unit": None, "x_scale": "linear", "y_scale": "log",
                "elements": [{"label": "L", "points": [[1.0, 3.0], [2.0, 4.0]]}],
            },
        )  # fmt: skip
        self.assertEqual(len(chart["x_ticks"]), len(chart["x_tick_labels"]))
        self.assertEqual(self.chart("plt.scatter([1], [2])")["elements"][0]["points"], [[1.0, 2.0]])
        dated = self.chart("import datetime\nplt.plot([datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 3)], [1, 2])")
        self.assertEqual((dated["x_scale"], dated["elements"][0]["points"][0][0]), ("datetime", "2024-01-02T00:00:00"))
        named = self.chart("plt.plot(['a', 'b'], [1, 2])")
        self.assertEqual((named["x_scale"], named["elements"][0]["points"][1]), ("categorical", ["b", 2.0]))

    def test_bars_wedges_and_boxes(self):
        for code in ("plt.bar(['a', 'b'], [1, 2], label='G')", "plt.barh(['a', 'b'], [1, 2], label='G')"):
            self.assertEqual(self.chart(code)["elements"], [{"label": "a", "group": "G", "value": 1.0}, {"label": "b", "group": "G", "value": 2.0}])
        self.assertEqual(self.chart("plt.pie([1, 3], labels=['p', 'q'])")["elements"][1], {"label": "q", "angle": 270.0, "radius": 1.0})
        for options in ("", ", vert=False", ", patch_artist=True"):
            chart = self.chart(f"plt.boxplot([[1, 2, 3, 4, 20], [2, 3, 4]], labels=['u', 'v']{options})")
            self.assertEqual(
                chart["elements"][0],
                {"label": "u", "min": 1.0, "first_quartile": 2.0, "median": 3.0, "third_quartile": 4.0, "max": 4.0, "outliers": [20.0]},
            )

    def test_several_and_others(self):
        chart = self.chart("f, a = plt.subplots(1, 2)\na[0].plot([1, 2])\na[1].bar([1], [2])\nf.suptitle('S')")
        self.assertEqual((chart["type"], chart["title"], [e["type"] for e in chart["elements"]]), ("superchart", "S", ["line", "bar"]))
        self.assertEqual(self.chart("plt.imshow([[1, 2]])")["type"], "unknown")
