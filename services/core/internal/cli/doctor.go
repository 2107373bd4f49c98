package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/locate"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// diagnosis is what doctor finds, and what `aetherium-standalone doctor
// --json` prints.
type diagnosis struct {
	// Server is set where one answers.
	Server *api.Status `json:"server,omitempty"`
	// ServerProblem is why none does.
	ServerProblem string       `json:"server_problem,omitempty"`
	Findings      []finding    `json:"findings,omitempty"`
	Drivers       []api.Driver `json:"drivers"`
}

// finding is one thing looked at on a host.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// standaloneProgram is the server's, looked for beside us first.
const standaloneProgram = "aetherium-standalone"

// doctorTime bounds the local checks; drivers may boot something to find out.
const doctorTime = 2 * time.Minute

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this installation can do, and why not more",
		Long: `Asks the server which drivers are usable and why others are not, and tries what
this host offers where the server runs on it or none answers; that takes root.
Exits with 1 where no driver is usable.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.diagnose(cmd.Context())
			if err != nil {
				return err
			}
			if a.asJSON() {
				err = render.JSON(a.Stdout, d)
			} else {
				err = a.showDiagnosis(d)
			}
			if err != nil {
				return err
			}
			for _, dr := range d.Drivers {
				if dr.Usable {
					return nil
				}
			}
			return errors.New(errors.Unsupported, "no driver is usable here")
		},
	}
}

func (a *app) diagnose(ctx context.Context) (diagnosis, error) {
	c, err := a.client()
	if err == nil {
		var d diagnosis
		if d.Drivers, err = c.Drivers(ctx); err == nil {
			if s, err := c.Status(ctx); err == nil { // the status is for administrators; the rest is not
				d.Server = &s
			}
			if s, err := a.server(); err == nil && locate.OnThisHost(s.URL) {
				d.addHost(a.localDiagnosis(ctx))
			}
			return d, nil
		}
		if !client.IsUnreachable(err) {
			return d, err
		}
	}
	// Where the address or key is what is wrong, that is the finding.
	local, lerr := a.localDiagnosis(ctx)
	if lerr != nil {
		a.tell(lerr)
		return diagnosis{}, err
	}
	local.ServerProblem = errors.Public(err).Message
	return local, nil
}

// addHost adds what this host offers. Drivers that the server has spoken of
// are left out; which they are their names tell, or their versions, as a host's
// are by runtime.
func (d *diagnosis) addHost(host diagnosis, err error) {
	if err != nil {
		e := errors.Public(err)
		d.Findings = append(d.Findings, finding{What: "host", Detail: e.Message, Hint: e.Hint})
		return
	}
	d.Findings = append(d.Findings, host.Findings...)
	known := map[string]bool{}
	for _, dr := range d.Drivers {
		known[dr.Name], known[dr.Version] = true, true
	}
	for _, dr := range host.Drivers {
		if !known[dr.Name] && (dr.Version == "" || !known[dr.Version]) {
			d.Drivers = append(d.Drivers, dr)
		}
	}
}

// localDiagnosis runs the checks of the server's program.
func (a *app) localDiagnosis(ctx context.Context) (diagnosis, error) {
	var d diagnosis
	program, err := findStandalone()
	if err != nil {
		return d, errors.Wrap(err, errors.NotFound, "this host cannot be checked: there is no %s", standaloneProgram).WithHint("build it with: make build")
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "doctor", "--json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	// It exits with 1 when it finds something; what it prints is what counts.
	if json.Unmarshal(stdout.Bytes(), &d) == nil {
		return d, nil
	}
	if err == nil {
		err = errors.Plain("its answer is no JSON")
	}
	last := strings.TrimSpace(stderr.String())
	if i := strings.LastIndexByte(last, '\n'); i >= 0 {
		last = last[i+1:]
	}
	e := errors.Wrap(err, errors.Internal, "%s doctor failed: %s", program, err)
	switch {
	case os.Geteuid() != 0:
		return d, errors.Wrap(err, errors.PermissionDenied, "this host was not looked at").WithHint("that takes root: sudo aetherium doctor")
	case last != "":
		return d, e.WithHint("it said: %s", last)
	}
	return d, e
}

func findStandalone() (string, error) {
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), standaloneProgram)); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(standaloneProgram)
}

func (a *app) showDiagnosis(d diagnosis) error {
	if a.namesOnly() {
		var names []string
		for _, dr := range d.Drivers {
			if dr.Usable {
				names = append(names, dr.Name)
			}
		}
		return a.showNames(names)
	}
	var p [][2]string
	if s := d.Server; s != nil {
		p = [][2]string{{"Server", s.URL + ", version " + s.Version}, {"Data directory", s.DataDir}}
	} else if d.ServerProblem != "" {
		p = [][2]string{{"Server", d.ServerProblem}}
	}
	for _, f := range d.Findings {
		value := "ok"
		if !f.OK {
			value = "NOT OK"
		}
		if f.Detail != "" {
			value += ": " + f.Detail
		}
		if !f.OK && f.Hint != "" {
			value += "\nhint: " + f.Hint
		}
		p = append(p, [2]string{f.What, value})
	}
	if err := render.Pairs(a.Stdout, a.human, p); err != nil {
		return err
	}
	if a.human && len(p) > 0 {
		if _, err := a.Stdout.Write([]byte("\n")); err != nil {
			return err
		}
	}
	rows := make([][]render.Cell, len(d.Drivers))
	for i, dr := range d.Drivers {
		usable := "yes"
		if !dr.Usable {
			usable = "no"
		}
		about := strings.ReplaceAll(strings.TrimSpace(dr.Reason), "\n", "; ")
		if dr.Usable {
			about = strings.Join(dr.Capabilities, ", ")
		}
		rows[i] = []render.Cell{render.Text(dr.Name), render.Text(usable), render.Text(dr.Isolation), render.Text(dr.Version), render.Text(about)}
	}
	return render.Table(a.Stdout, a.human, []string{"DRIVER", "USABLE", "ISOLATION", "VERSION", "CAPABILITIES, OR WHY NOT"}, rows)
}
