package cli

import (
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
)

// portAnswer is what `port -o json` shows.
type portAnswer struct {
	api.Port
	Link      string    `json:"link"`
	ExpiresAt time.Time `json:"link_expires_at"`
}

// maxLinkTTL is how long the API lets a link wait.
const maxLinkTTL = 24 * time.Hour

func (a *app) portCommand() *cobra.Command {
	var open, token bool
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "port VM PORT",
		Short: "Print a URL for a server in a VM",
		Long: `Prints a one-time link to the preview of a TCP port in a VM: the first browser
that opens it gets in, and stays in by a cookie. Programs take the lasting URL
and send the VM's token: --token prints both, and so does -o json.`,
		Example: `  aetherium port web 8080 --open
  aetherium port web 8080 -o json | jq -r .token`,
		Args: exactly("VM", "PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || n == 0 {
				return usage(cmd, errors.New(errors.InvalidArgument, "%q is not a port", args[1]).WithHint("between 1 and 65535"))
			}
			if err := checkSpan(cmd, "ttl", ttl, time.Second, maxLinkTTL); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			answer := portAnswer{}
			if token || a.asJSON() {
				if answer.Port, err = c.Port(cmd.Context(), args[0], int(n)); err != nil {
					return err
				}
			}
			if token && !a.asJSON() {
				return render.Pairs(a.Stdout, a.human, [][2]string{{"URL", answer.URL}, {api.HeaderPreviewToken, answer.Token}})
			}
			link, err := c.CreateLink(cmd.Context(), args[0], int(n), api.CreateLink{TTLMS: ttl.Milliseconds()})
			if err != nil {
				return err
			}
			answer.Link, answer.ExpiresAt = link.URL, link.ExpiresAt
			if open {
				return browse(link.URL)
			}
			if a.asJSON() {
				return render.JSON(a.Stdout, answer)
			}
			return a.showNames([]string{link.URL})
		},
		ValidArgsFunction: a.firstArg(a.completeVMs("running")),
	}
	f := cmd.Flags()
	f.BoolVar(&open, "open", false, "open it in a browser instead of printing it")
	f.BoolVar(&token, "token", false, "print the lasting URL and the VM's token instead")
	f.Var((*durationFlag)(&ttl), "ttl", "how long the link may wait to be opened (default: five minutes)")
	return cmd
}

// browse opens a URL with what the desktop provides.
func browse(url string) error {
	for _, program := range []string{"xdg-open", "open"} {
		if path, err := exec.LookPath(program); err == nil {
			return exec.Command(path, url).Start() //nolint:noctx // the browser outlives us
		}
	}
	return errors.New(errors.Unsupported, "there is no browser to open").WithHint("leave out --open and take the URL")
}
