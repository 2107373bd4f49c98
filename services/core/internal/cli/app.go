package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/internal/cli/locate"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/terminal"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// Host is what a run of the command line gets from its process.
type Host struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) (value string, set bool)
	Now    func() time.Time
	// Signals delivers what the process receives; nil: none. See [Process].
	Signals <-chan os.Signal
	// SystemDir is where a server of the whole host keeps its data; empty: nowhere.
	SystemDir string
	// Quit ends the process at once, for users who ask twice.
	Quit func(code int)
}

// Process is the Host of a real process, and a function that lets its signals go.
func Process() (Host, func()) {
	signals, release := notify()
	return Host{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.LookupEnv, Now: time.Now, Signals: signals, Quit: os.Exit,
		SystemDir: locate.SystemDir,
	}, release
}

// app is one run of the command line.
type app struct {
	Host
	flags globalFlags
	term  *terminal.Terminal // stdin's; nil: it is none
	human bool               // stdout is a terminal

	mu      sync.Mutex
	forward func(os.Signal) bool // takes signals for a command; false: not this one
	client_ *client.Client
}

// globalFlags are the flags that every command has.
type globalFlags struct {
	url      string
	key      string
	keyFile  string
	project  string
	output   string
	quiet    bool
	patience time.Duration
}

func newApp(h Host) *app {
	return &app{Host: h, term: terminal.Of(h.Stdin), human: terminal.Is(h.Stdout)}
}

func (a *app) env(name string) string {
	v, _ := a.Getenv(name)
	return v
}

// client finds the server and makes the client, once.
func (a *app) client() (*client.Client, error) {
	if a.client_ != nil {
		return a.client_, nil
	}
	server, err := a.server()
	if err != nil {
		return nil, err
	}
	c, err := a.clientWith(server.URL, server.Key, a.project())
	if err == nil {
		a.client_ = c
	}
	return c, err
}

// clientWith makes a client that shows a key.
func (a *app) clientWith(url, key, project string) (*client.Client, error) {
	return client.New(client.Options{
		URL: url, Key: key, Project: project, Patience: a.flags.patience,
		UserAgent: "aetherium-cli/" + version.Version,
	})
}

// project is the one to work in; empty: the key's own.
func (a *app) project() string {
	if a.flags.project != "" {
		return a.flags.project
	}
	return a.env("AETHERIUM_PROJECT")
}

// server is where the flags, the environment or a data directory point. A key
// on the command line goes before one in a file, and both before the environment's.
func (a *app) server() (locate.Server, error) {
	g := locate.Given{
		URL: a.flags.url, Key: a.flags.key, KeyFile: a.flags.keyFile,
		DataDir: a.env("AETHERIUM_DATA_DIR"), SystemDir: a.SystemDir, Home: a.env("HOME"),
	}
	if g.URL == "" {
		g.URL = a.env("AETHERIUM_URL")
	}
	if g.Key == "" && g.KeyFile == "" {
		g.Key = a.env("AETHERIUM_API_KEY")
	}
	return locate.Find(g)
}

// say tells the user something on stderr, on a line of its own. In raw mode a
// line ends as the terminal then needs it.
func (a *app) say(format string, args ...any) {
	end := "\n"
	if a.term.IsRaw() {
		end = "\r\n"
	}
	_, _ = io.WriteString(a.Stderr, "aetherium: "+render.Clean(fmt.Sprintf(format, args...))+end)
}

// explain adds what to do about an error, where the server has not said it.
func (a *app) explain(err error) error {
	var e *errors.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code == errors.NotFound && e.Hint == "":
		return e.WithHint("%s", whereListed(e.Message))
	case e.Code == errors.AlreadyExists && e.Hint == "":
		return e.WithHint("choose another name, or remove what has it")
	case e.Code == errors.Unauthenticated && e.Hint == "":
		return e.WithHint("give the key by --key-file or AETHERIUM_API_KEY; the server keeps it in its data directory")
	case client.IsUnreachable(err) && e.Hint == "":
		return e.WithHint("`aetherium status` tells whether it answers; then try again")
	case client.IsUnreachable(err) && a.client_ != nil:
		if s, serr := a.server(); serr == nil && s.From != "" && e.Hint == "start one with: make up" {
			return e.WithHint("start it again with: make up (its address is from %s)", s.From)
		}
	}
	return err
}
