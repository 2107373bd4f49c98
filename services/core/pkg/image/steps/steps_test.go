package steps_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

func parse(t *testing.T, text string) *steps.File {
	t.Helper()
	f, err := steps.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// follow gives the actions of a file on a base's environment.
func follow(t *testing.T, text string) ([]steps.Action, steps.State) {
	t.Helper()
	f := parse(t, text)
	state := steps.State{Env: map[string]string{"PATH": "/bin"}}
	var all []steps.Action
	for _, s := range f.Steps {
		a, err := state.Apply(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all, state
}

const whole = "\ufeff# syntax=docker/dockerfile:1\r\n" + `
from base:latest AS build

# a comment
RUN apt-get update \
    # one in the middle

    && apt-get install -y   jq   \
    curl
ENV A=1 B="two words" C='$A' PATH=/opt/bin:$PATH
ENV LEGACY a value  with spaces
WORKDIR /srv
WORKDIR app
COPY --chown=user:100 --chmod=${M:-07}"50" a.txt "b c.txt" dir/*.py ./
COPY ["x y", "/to here"]
RUN ["python3", "-c", "print('$A')"]
USER user
RUN [ -f a.txt ] && echo "${D:-none} ${A:+set}"
`

func TestParseAndApply(t *testing.T) {
	t.Parallel()
	f := parse(t, whole)
	if f.From.From != "base:latest" || f.From.Line != 3 || !f.NeedsContext() {
		t.Errorf("from: %+v", f.From)
	}
	all, state := follow(t, whole)
	var lines []int
	for _, a := range all {
		lines = append(lines, a.Step.Line)
	}
	if want := []int{6, 11, 12, 13, 14, 15, 16, 17, 18, 19}; !slices.Equal(lines, want) {
		t.Errorf("lines %v, want %v", lines, want)
	}
	if got, want := all[0].Args[2], "apt-get update     && apt-get install -y   jq       curl"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if all[0].User != "root" || all[0].Cwd != "/" || all[0].Env["PATH"] != "/bin" {
		t.Errorf("the first command: %+v", all[0])
	}
	wantEnv := map[string]string{"PATH": "/opt/bin:/bin", "A": "1", "B": "two words", "C": "$A", "LEGACY": "a value  with spaces"}
	if !maps.Equal(state.Env, wantEnv) {
		t.Errorf("environment %q", state.Env)
	}
	if state.WorkDir != "/srv/app" || state.User != "user" {
		t.Errorf("state %+v", state)
	}
	c := all[5]
	if !slices.Equal(c.Sources, []string{"a.txt", "b c.txt", "dir/*.py"}) || c.Dir != "/srv/app" || !c.AsDir || c.Chown != "user:100" || c.Chmod != "0750" {
		t.Errorf("copy %+v", c)
	}
	if c = all[6]; !slices.Equal(c.Sources, []string{"x y"}) || c.Dir != "/to here" || c.AsDir {
		t.Errorf("copy %+v", c)
	}
	if got := all[7].Args; !slices.Equal(got, []string{"python3", "-c", "print('$A')"}) {
		t.Errorf("exec form %q", got)
	}
	if got := all[9]; got.Args[2] != `[ -f a.txt ] && echo "${D:-none} ${A:+set}"` || got.User != "user" || got.Cwd != "/srv/app" {
		t.Errorf("shell form %+v", got)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		`$PATH`: "/bin", `${PATH}x`: "/binx", `\$PATH`: "$PATH", `'$PATH'`: "$PATH", `"$PATH y"`: "/bin y", `"\$PATH"`: "$PATH",
		`$NONE`: "", `${NONE:-else}`: "else", `${PATH:-else}`: "/bin", `${PATH:+set}`: "set", `${NONE:+set}`: "",
		`a$`: "a$", `$1`: "$1", `a\ b`: "a b", `""`: "", `a"b c"'d e'`: "ab cd e", `é\é`: "éé",
	} {
		_, state := follow(t, "FROM x\nENV V="+word)
		if got := state.Env["V"]; got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	// All values of one ENV see what was before it.
	_, state := follow(t, "FROM x\nENV A=1\nENV A=2 B=$A")
	if state.Env["B"] != "1" {
		t.Errorf("B is %q", state.Env["B"])
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text string
		line int
		code steps.Code
	}{
		{"", 0, steps.CodeEmpty},
		{"# nothing\n\n", 0, steps.CodeEmpty},
		{"FROM a\nRUN x\x00", 0, steps.CodeNotText},
		{"FROM a\nRUN \xff", 0, steps.CodeNotText},
		{strings.Repeat("#", steps.MaxBytes+1), 0, steps.CodeTooLarge},
		{"FROM a\nRUN " + strings.Repeat("x", steps.MaxLine), 2, steps.CodeTooLarge},
		{"FROM a\nRUN a \\\n" + strings.Repeat("x", steps.MaxLine), 2, steps.CodeTooLarge},
		{"FROM a\n" + strings.Repeat("RUN x\n", steps.MaxSteps+1), steps.MaxSteps + 2, steps.CodeTooMany},
		{"FROM a\nCOPY " + strings.Repeat("x ", steps.MaxWords+1), 2, steps.CodeTooMany},
		{"# escape=`\nFROM a", 1, steps.CodeDirective},
		{"RUN x", 1, steps.CodeNoFrom},
		{"FROM a\n\nFROM b", 3, steps.CodeStages},
		{"FROM", 1, steps.CodeArgument},
		{"FROM a\nSTART", 2, steps.CodeArgument},
		{"FROM a\nREADY x\nREADY y", 3, steps.CodeArgument},
		{"START x\nFROM a", 1, steps.CodeNoFrom},
		{"FROM a b", 1, steps.CodeArgument},
		{"FROM $a", 1, steps.CodeFrom},
		{"FROM ä", 1, steps.CodeFrom},
		{"FROM --platform=linux/arm64 a", 1, steps.CodeFlag},
		{"FROM a\nRUN --mount=type=cache x", 2, steps.CodeFlag},
		{"FROM a\nRUN", 2, steps.CodeArgument},
		{"FROM a\nRUN []", 2, steps.CodeArgument},
		{"FROM a\nRUN [\"a\", 1]", 2, steps.CodeJSON},
		{"FROM a\nRUN [\"a\"", 2, steps.CodeJSON},
		{"FROM a\nRUN cat <<EOF\nhello\nEOF", 2, steps.CodeHeredoc},
		{"FROM a\nCOPY <<EOF /x\nhello\nEOF", 2, steps.CodeHeredoc},
		{"FROM a\n\n\nFLY x", 4, steps.CodeUnknown},
		{"FROM a\nCMD x", 2, steps.CodeUnsupported},
		{"FROM a\nADD x y", 2, steps.CodeUnsupported},
		{"FROM a\nCOPY x", 2, steps.CodeArgument},
		{"FROM a\nCOPY --from=b x y", 2, steps.CodeFlag},
		{"FROM a\nCOPY \"x y", 2, steps.CodeQuote},
		{"FROM a\nCOPY ../x /y", 2, steps.CodeEscape},
		{"FROM a\nCOPY x/../../y /y", 2, steps.CodeEscape},
		{"FROM a\nCOPY [\"a\", \"/..\", \"/y/\"]", 2, steps.CodeEscape},
		{"FROM a\nCOPY x[ /y", 2, steps.CodePath},
		{"FROM a\nENV A", 2, steps.CodeArgument},
		{"FROM a\nENV A=1 B", 2, steps.CodeArgument},
		{"FROM a\nENV A-B=1", 2, steps.CodeEnvironment},
		{"FROM a\nENV A=${x", 2, steps.CodeVariable},
		{"FROM a\nENV A=${}", 2, steps.CodeVariable},
		{"FROM a\nENV A=${x:?y}", 2, steps.CodeVariable},
		{"FROM a\nENV A='x", 2, steps.CodeQuote},
		{"FROM a\nUSER", 2, steps.CodeArgument},
		{"FROM a\nUSER a b", 2, steps.CodeUser},
		{"FROM a\nUSER a:b", 2, steps.CodeUser},
	} {
		_, err := steps.Parse(tc.text)
		check(t, fmt.Sprintf("%.60q", tc.text), err, tc.line, tc.code)
	}
}

func check(t *testing.T, what string, err error, line int, code steps.Code) {
	t.Helper()
	var e *steps.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: no error, or another kind: %v", what, err)
		return
	}
	if e.Line != line || e.Code != code {
		t.Errorf("%s: line %d, %s; want line %d, %s", what, e.Line, e.Code, line, code)
	}
	public := errors.Public(err)
	if public.Code != errors.InvalidArgument && public.Code != errors.TooLarge || public.Field != "source.steps" || !strings.Contains(public.Message, string(code)) {
		t.Errorf("%s: what is shown is %+v", what, public)
	}
}

func TestApplyErrors(t *testing.T) {
	t.Parallel()
	for text, code := range map[string]steps.Code{
		"COPY $PATH/../.. /x":                   steps.CodeEscape,
		"COPY $NONE /x":                         steps.CodePath,
		"COPY a b /x":                           steps.CodeNeedsDirectory,
		"COPY --chown=a:b:c a /x":               steps.CodeUser,
		"COPY --chmod=u+x a /x":                 steps.CodeMode,
		"COPY --chmod=10755 a /x":               steps.CodeMode,
		"USER $NONE":                            steps.CodeUser,
		"WORKDIR $NONE":                         steps.CodePath,
		"WORKDIR " + strings.Repeat("/x", 3000): steps.CodePath,
	} {
		f := parse(t, "FROM a\n"+text)
		state := steps.State{Env: map[string]string{"PATH": "/bin"}}
		_, err := state.Apply(f.Steps[0])
		check(t, text, err, 2, code)
	}
	// What doubles with each step ends at the bound.
	f := parse(t, "FROM a\nENV A="+strings.Repeat("x", 1000)+"\n"+strings.Repeat("ENV A=$A$A\n", 10))
	var state steps.State
	var err error
	for _, s := range f.Steps {
		if _, err = state.Apply(s); err != nil {
			check(t, "doubling", err, 8, steps.CodeTooLarge)
			return
		}
	}
	t.Error("values grow without a bound")
}

func TestLayersDependOnEverything(t *testing.T) {
	t.Parallel()
	layers := func(project, text, content string) []steps.Layer {
		all, _ := follow(t, text)
		layer := steps.BaseLayer(project, "sha256:1")
		var out []steps.Layer
		for _, a := range all {
			if a.Changes() {
				took := ""
				if a.Step.Kind == steps.Copy {
					took = content
				}
				layer = layer.On(a, took)
				out = append(out, layer)
			}
		}
		return out
	}
	text := "FROM x\nENV A=1\nRUN a\nCOPY f /f\nRUN b\n"
	one := layers("p", text, "c")
	if again := layers("p", "# other comment\nFROM x\nENV A=\"1\"\n\nRUN  a\nCOPY ./f /f\nRUN b\n", "c"); !slices.Equal(one, again) {
		t.Error("how a step is written makes another layer")
	}
	mode := func(m string) []steps.Layer {
		return layers("p", strings.Replace(text, "COPY f", "COPY --chmod="+m+" f", 1), "c")
	}
	if !slices.Equal(mode("0644"), mode("644")) {
		t.Error("how a mode is written makes another layer")
	}
	if other := layers("q", text, "c"); other[0] == one[0] {
		t.Error("projects share layers")
	}
	if other := layers("p", text, "d"); other[0] != one[0] || other[1] == one[1] || other[2] == one[2] {
		t.Error("other content of the context must change COPY and what follows, and nothing before")
	}
	for _, change := range [][2]string{
		{"A=1", "A=2"}, {"RUN a", "RUN a " + "x"}, {"RUN a", "WORKDIR /w\nRUN a"}, {"RUN a", "USER u\nRUN a"}, {"RUN a", `RUN ["/bin/sh", "a"]`},
	} {
		if other := layers("p", strings.Replace(text, change[0], change[1], 1), "c"); slices.Contains(one, other[len(other)-1]) {
			t.Errorf("%q instead of %q has the same layers", change[1], change[0])
		}
	}
	for _, change := range [][2]string{{"/f", "/g"}, {"/f", "/f/"}, {"COPY f", "COPY g"}, {"COPY f", "COPY --chown=u f"}, {"COPY f", "COPY --chmod=600 f"}} {
		other := layers("p", strings.Replace(text, change[0], change[1], 1), "c")
		if other[0] != one[0] || other[1] == one[1] {
			t.Errorf("%q instead of %q", change[1], change[0])
		}
	}
}

// FuzzParse: no text crashes the parser, what it accepts is within the bounds,
// and what it refuses has a code.
func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("FROM a\nENV A=${x:-y} B=\"$A\\\"\" C='d'\nRUN [\"a\"]\nCOPY --chown=$u:1 [\"a\", \"b/\"]\nWORKDIR $A\nUSER $B")
	f.Add("FROM a\nRUN \\\n#\n\\\n\\")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := steps.Parse(text)
		if err != nil {
			var e *steps.Error
			if !errors.As(err, &e) || e.Code == "" || e.Line < 0 || e.Line > strings.Count(text, "\n")+1 {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(file.Steps) > steps.MaxSteps || file.From.From == "" {
			t.Fatalf("%+v", file)
		}
		state := steps.State{Env: map[string]string{"PATH": "/bin", "x": "../.."}}
		layer := steps.BaseLayer("p", "d")
		for _, s := range file.Steps {
			a, err := state.Apply(s)
			if err != nil {
				var e *steps.Error
				if !errors.As(err, &e) || e.Line != s.Line {
					t.Fatalf("%v", err)
				}
				return
			}
			for _, source := range a.Sources {
				if strings.HasPrefix(source, "/") || slices.Contains(strings.Split(source, "/"), "..") {
					t.Fatalf("the source %q leaves the context", source)
				}
			}
			if a.Dir != "" && a.Dir[0] != '/' || a.Step.Kind == steps.Run && (len(a.Args) == 0 || a.Args[0] == "") {
				t.Fatalf("%+v", a)
			}
			if next := layer.On(a, ""); next == layer {
				t.Fatal("an action without a layer of its own")
			}
		}
	})
}

func TestStartAndReady(t *testing.T) {
	t.Parallel()
	f := parse(t, "FROM a\nstart serve --port 80 \\\n  --quiet\nRUN x\nREADY curl -fs localhost | grep -q ok")
	if f.Start != "serve --port 80   --quiet" || f.Ready != "curl -fs localhost | grep -q ok" || len(f.Steps) != 1 {
		t.Errorf("%+v", f)
	}
}
