package steps

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Kind is a step's instruction.
type Kind string

// The instructions.
const (
	From    Kind = "FROM"
	Run     Kind = "RUN"
	Copy    Kind = "COPY"
	Env     Kind = "ENV"
	WorkDir Kind = "WORKDIR"
	User    Kind = "USER"
	Start   Kind = "START" // ours: what runs in each machine
	Ready   Kind = "READY" // ours: when it may be used
)

// others are instructions of a Dockerfile that this is not.
var others = map[string]string{
	"ADD":         "use COPY; RUN curl and tar fetch and unpack",
	"ARG":         "use ENV",
	"CMD":         "a VM runs what it is told; START names what runs in the background in each",
	"ENTRYPOINT":  "a VM runs what it is told; START names what runs in the background in each",
	"EXPOSE":      "every port of a VM can be reached by `aetherium port`",
	"HEALTHCHECK": "READY names a command that succeeds once what START names may be used", "LABEL": "", "MAINTAINER": "", "ONBUILD": "", "STOPSIGNAL": "",
	"SHELL":  `use the exec form: RUN ["bash", "-c", "…"]`,
	"VOLUME": "",
}

// Step is one instruction as written.
type Step struct {
	Line int // where it begins, from 1
	Kind Kind
	Text string // the whole of it on one line

	From  string   // FROM
	Shell string   // RUN, shell form
	Exec  []string // RUN, exec form

	Chown   word   // COPY
	Chmod   word   // COPY
	Sources []word // COPY
	Target  word   // of COPY, WORKDIR and USER
	Vars    []variable
}

// variable is one assignment of ENV.
type variable struct {
	name  string
	value word
}

// File is a parsed file: where it begins, what is done from there, and what
// the machines of the outcome do.
type File struct {
	From  Step
	Steps []Step
	// Start and Ready are lines of shell; empty: there is none.
	Start, Ready string
}

// NeedsContext reports whether a step copies files from the build's context.
func (f *File) NeedsContext() bool {
	for _, s := range f.Steps {
		if s.Kind == Copy {
			return true
		}
	}
	return false
}

// Parse reads a file. Errors are *Error.
func Parse(text string) (*File, error) {
	if len(text) > MaxBytes {
		return nil, bad(0, CodeTooLarge, "the file has %d bytes, at most %d are allowed", len(text), MaxBytes)
	}
	if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return nil, bad(0, CodeNotText, "the file is not UTF-8 text")
	}
	lines, err := join(strings.TrimPrefix(text, "\ufeff"))
	if err != nil {
		return nil, err
	}
	file := new(File)
	for _, l := range lines {
		s, err := parseStep(l)
		if err != nil {
			return nil, err
		}
		switch {
		case s.Kind == From && file.From.Kind != "":
			return nil, bad(s.Line, CodeStages, "a second FROM: there is one stage only").hint("build the first stage as a template of its own and name it in FROM")
		case s.Kind == From:
			file.From = *s
			continue
		case file.From.Kind == "":
			return nil, bad(s.Line, CodeNoFrom, "the first step must be FROM").hint("such as FROM base")
		case s.Kind == Start || s.Kind == Ready:
			if err := file.command(s); err != nil {
				return nil, err
			}
			continue
		case len(file.Steps) == MaxSteps:
			return nil, bad(s.Line, CodeTooMany, "there are more than %d steps", MaxSteps)
		}
		file.Steps = append(file.Steps, *s)
	}
	if file.From.Kind == "" {
		return nil, bad(0, CodeEmpty, "there is no step").hint("begin with FROM, such as FROM base")
	}
	return file, nil
}

// command takes a START or READY, of which there is one each.
func (f *File) command(s *Step) error {
	of := &f.Start
	if s.Kind == Ready {
		of = &f.Ready
	}
	if *of != "" {
		return bad(s.Line, CodeArgument, "a second %s: there is one only", s.Kind).hint("join them by && or &, or call a script")
	}
	*of = s.Shell
	return nil
}

// line is a line with its continuations.
type line struct {
	number int
	text   string
}

var escapeDirective = regexp.MustCompile(`(?i)^#\s*escape\s*=\s*(\S+)\s*$`)

// join joins continued lines and drops comments and empty lines, also between
// continuations, as Dockerfiles have it.
func join(text string) ([]line, error) {
	var out []line
	var open *line
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSuffix(l, "\r")
		trimmed := strings.TrimSpace(l)
		if strings.HasPrefix(trimmed, "#") {
			if m := escapeDirective.FindStringSubmatch(trimmed); m != nil && len(out) == 0 && open == nil && m[1] != `\` {
				return nil, bad(i+1, CodeDirective, "another escape character is not supported")
			}
			continue
		}
		if trimmed == "" {
			continue
		}
		if open == nil {
			open = &line{number: i + 1}
			l = strings.TrimLeft(l, " \t")
		}
		more := strings.TrimRight(l, " \t")
		goesOn := strings.HasSuffix(more, `\`)
		if goesOn {
			l = strings.TrimSuffix(more, `\`)
		}
		if open.text += l; len(open.text) > MaxLine {
			return nil, bad(open.number, CodeTooLarge, "the line has more than %d bytes", MaxLine)
		}
		if !goesOn {
			out, open = append(out, *open), nil
		}
	}
	if open != nil {
		out = append(out, *open)
	}
	return out, nil
}

// heredoc is what begins a here-document; "<<<" and shifts are none.
var heredoc = regexp.MustCompile(`^\d*<<-?["']?[A-Za-z_][A-Za-z0-9_.]*["']?$`)

func parseStep(l line) (*Step, error) {
	text := strings.TrimSpace(l.text)
	name, rest := cutWord(text)
	s := &Step{Line: l.number, Kind: Kind(strings.ToUpper(name))}
	s.Text = strings.TrimSpace(string(s.Kind) + " " + rest)
	var err error
	switch s.Kind {
	case From:
		err = s.parseFrom(rest)
	case Run:
		err = s.parseRun(rest)
	case Copy:
		err = s.parseCopy(rest)
	case Env:
		err = s.parseEnv(rest)
	case WorkDir, User:
		err = s.parseOne(rest)
	case Start, Ready:
		if s.Shell = rest; rest == "" {
			err = bad(l.number, CodeArgument, "%s needs a line of shell", s.Kind)
		}
	default:
		if hint, ok := others[string(s.Kind)]; ok {
			return nil, bad(l.number, CodeUnsupported, "%s is not supported", s.Kind).hint(hint)
		}
		return nil, bad(l.number, CodeUnknown, "there is no instruction %q", clip(name)).hint("FROM, RUN, COPY, ENV, WORKDIR, USER, START or READY")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// cutWord cuts off the first word.
func cutWord(s string) (first, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}

// flags cuts off leading --name=value words, giving those allowed to set.
func (s *Step) flags(rest string, set func(name, value string) bool) (string, error) {
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest = cutWord(rest)
		name, value, _ := strings.Cut(flag[2:], "=")
		if set == nil || !set(name, value) {
			return "", bad(s.Line, CodeFlag, "%s has no flag --%s", s.Kind, clip(name))
		}
	}
	return rest, nil
}

func (s *Step) parseFrom(rest string) error {
	rest, err := s.flags(rest, nil)
	if err != nil {
		return err
	}
	words := strings.Fields(rest)
	if len(words) == 3 && strings.EqualFold(words[1], "as") {
		words = words[:1] // a stage's name, which nothing can refer to
	}
	switch {
	case len(words) != 1:
		return bad(s.Line, CodeArgument, "FROM takes one name").hint("a template's name or name:tag, or an OCI image's reference")
	case strings.ContainsAny(words[0], `$"'\`), !printableWord(words[0]):
		return bad(s.Line, CodeFrom, "%q is neither a template nor an image reference", clip(words[0]))
	case len(words[0]) > MaxFrom:
		return bad(s.Line, CodeTooLarge, "what FROM names has more than %d bytes", MaxFrom)
	}
	s.From = words[0]
	return nil
}

func printableWord(s string) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f {
			return false
		}
	}
	return true
}

func (s *Step) parseRun(rest string) error {
	rest, err := s.flags(rest, nil)
	if err != nil {
		return err
	}
	if rest == "" {
		return bad(s.Line, CodeArgument, "RUN needs a command")
	}
	for _, w := range strings.Fields(rest) {
		if heredoc.MatchString(w) {
			return bad(s.Line, CodeHeredoc, "here-documents are not supported").hint("put the text into a file of the context and COPY it")
		}
	}
	list, isList, err := s.list(rest)
	if err != nil {
		return err
	}
	if !isList {
		s.Shell = rest
		return nil
	}
	if len(list) == 0 || list[0] == "" {
		return bad(s.Line, CodeArgument, "RUN needs a command")
	}
	s.Exec = list
	return nil
}

// list reads a JSON array of strings. What begins like one and is none is
// taken for a shell's "[ … ]" unless a quote follows the bracket.
func (s *Step) list(rest string) ([]string, bool, error) {
	if !strings.HasPrefix(rest, "[") {
		return nil, false, nil
	}
	var list []string
	if err := json.Unmarshal([]byte(rest), &list); err != nil {
		if strings.HasPrefix(strings.TrimLeft(rest[1:], " \t"), `"`) {
			return nil, false, bad(s.Line, CodeJSON, "this is not a JSON array of strings").hint(`such as RUN ["make", "all"]; a shell's test is written without quotes first`)
		}
		return nil, false, nil
	}
	if len(list) > MaxWords {
		return nil, false, bad(s.Line, CodeTooMany, "%s has more than %d words", s.Kind, MaxWords)
	}
	for _, item := range list {
		if strings.IndexByte(item, 0) >= 0 {
			return nil, false, bad(s.Line, CodeNotText, "a word holds a NUL character")
		}
	}
	return list, true, nil
}

func (s *Step) parseCopy(rest string) error {
	var chown, chmod string
	rest, err := s.flags(rest, func(name, value string) bool {
		switch name {
		case "chown":
			chown = value
		case "chmod":
			chmod = value
		default:
			return false
		}
		return value != ""
	})
	if err != nil {
		return err
	}
	if s.Chown, err = s.one(chown); err != nil {
		return err
	}
	if s.Chmod, err = s.one(chmod); err != nil {
		return err
	}
	list, isList, err := s.list(rest)
	if err != nil {
		return err
	}
	var words []word
	if !isList {
		if words, err = s.words(rest); err != nil {
			return err
		}
	}
	for _, item := range list {
		w, err := expandable(s.Line, item)
		if err != nil {
			return err
		}
		words = append(words, w)
	}
	for _, w := range words {
		if text, fixed := w.fixed(); fixed && heredoc.MatchString(text) {
			return bad(s.Line, CodeHeredoc, "here-documents are not supported").hint("put the text into a file of the context and COPY it")
		}
	}
	if len(words) < 2 {
		return bad(s.Line, CodeArgument, "COPY needs a source and a destination")
	}
	s.Sources, s.Target = words[:len(words)-1], words[len(words)-1]
	// What no variable can change is checked before anything runs.
	for _, w := range s.Sources {
		if text, fixed := w.fixed(); fixed {
			if _, err := cleanSource(s.Line, text); err != nil {
				return err
			}
		}
	}
	return nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func (s *Step) parseEnv(rest string) error {
	first, after := cutWord(rest)
	if first == "" {
		return bad(s.Line, CodeArgument, "ENV needs NAME=value")
	}
	if !strings.Contains(first, "=") { // ENV NAME the rest is the value
		if after == "" {
			return bad(s.Line, CodeArgument, "ENV needs NAME=value")
		}
		value, err := s.one(after)
		if err != nil {
			return err
		}
		return s.assign(first, value)
	}
	words, err := s.words(rest)
	if err != nil {
		return err
	}
	for _, w := range words {
		name, value, ok := w.cut('=')
		if !ok {
			return bad(s.Line, CodeArgument, "ENV needs NAME=value, and %q is not", clip(w.String()))
		}
		if err := s.assign(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *Step) assign(name string, value word) error {
	if !envName.MatchString(name) {
		return bad(s.Line, CodeEnvironment, "%q is not the name of an environment variable", clip(name))
	}
	s.Vars = append(s.Vars, variable{name, value})
	return nil
}

// parseOne reads the one argument of WORKDIR and USER, which may hold spaces.
func (s *Step) parseOne(rest string) (err error) {
	if rest == "" {
		return bad(s.Line, CodeArgument, "%s needs an argument", s.Kind)
	}
	if s.Target, err = s.one(rest); err != nil {
		return err
	}
	if text, fixed := s.Target.fixed(); fixed && s.Kind == User {
		return checkUser(s.Line, text)
	}
	return nil
}
