package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// followWait is how long one question for new entries stays open.
const followWait = 30 * time.Second

func (a *app) egressCommand() *cobra.Command {
	var follow, denied bool
	var after int64
	cmd := &cobra.Command{
		Use:   "egress VM",
		Short: "Show what a VM reached and was refused",
		Long: `Shows a VM's egress log: each connection, datagram flow and name that it asked
for, whether it was let through, and which entry of its policy or which reason
decided. With --follow it goes on with what comes.

  aetherium egress set VM --allow '*.github.com' --deny '*'     change the policy, at once
  aetherium egress policy VM                                    show it
  aetherium egress learned VM                                   the policy that its run needed`,
		Example: `  aetherium egress web --denied
  aetherium egress web --follow -o json`,
		Args: exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if after < 0 {
				return usagef(cmd, "--after: %d is negative", after)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.showEgress(cmd, c, args[0], after, follow, denied)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	f.BoolVar(&denied, "denied", false, "only what was refused, or would be without learning")
	f.Int64Var(&after, "after", 0, "only entries behind this number")
	cmd.AddCommand(a.egressSetCommand(), a.egressPolicyCommand(), a.egressLearnedCommand())
	return cmd
}

func (a *app) showEgress(cmd *cobra.Command, c *client.Client, vm string, after int64, follow, denied bool) error {
	ctx := cmd.Context()
	first := true
	for {
		wait := time.Duration(0)
		if follow && !first {
			wait = followWait
		}
		entries, err := c.EgressLog(ctx, vm, after, wait)
		if err != nil {
			return err
		}
		if n := len(entries); n > 0 {
			after = entries[n-1].Seq
		}
		shown := entries[:0:0]
		for _, e := range entries {
			if !denied || e.Verdict == domain.EgressDeny || e.Learned {
				shown = append(shown, e)
			}
		}
		if err := a.showEgressEntries(shown, first); err != nil {
			return err
		}
		first = false
		if len(entries) == 0 && !follow {
			return nil
		}
	}
}

// showEgressEntries shows entries as lines, each whole as it comes.
func (a *app) showEgressEntries(entries []api.EgressEntry, titled bool) error {
	if a.asJSON() {
		enc := json.NewEncoder(a.Stdout)
		for _, e := range entries {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]render.Cell, len(entries))
	for i, e := range entries {
		rows[i] = []render.Cell{
			render.Text(strconv.FormatInt(e.Seq, 10)), render.Text(e.At.Local().Format(time.RFC3339)), render.Text(verdict(e)),
			render.Text(e.Protocol), render.Text(destination(e)), render.Text(why(e)), render.Text(e.Via),
			given(e.SentBytes, render.Bytes(e.SentBytes)), given(e.ReceivedBytes, render.Bytes(e.ReceivedBytes)), given(int64(e.Count), render.Text(strconv.Itoa(e.Count))),
		}
	}
	titles := []string{"#", "TIME", "VERDICT", "PROTO", "DESTINATION", "RULE OR REASON", "VIA", "SENT", "RECEIVED", "TIMES"}
	if !titled {
		titles = nil
	}
	if a.namesOnly() {
		names := make([]string, len(entries))
		for i, e := range entries {
			names[i] = destination(e)
		}
		return a.showNames(names)
	}
	return render.Table(a.Stdout, a.human, titles, rows)
}

func verdict(e api.EgressEntry) string {
	if e.Learned {
		return "learned"
	}
	return e.Verdict
}

func destination(e api.EgressEntry) string {
	host := e.Name
	switch {
	case host == "":
		host = e.Address
	case e.Address != "":
		host += " (" + e.Address + ")"
	}
	if e.Port == 0 || e.Protocol == "dns" {
		return host
	}
	if e.Name == "" {
		return net.JoinHostPort(host, strconv.Itoa(int(e.Port)))
	}
	return e.Name + ":" + strconv.Itoa(int(e.Port)) + strings.TrimPrefix(host, e.Name)
}

func why(e api.EgressEntry) string {
	if e.Reason != "" && e.Rule != "" {
		return e.Rule + " (" + e.Reason + ")"
	}
	return e.Rule + e.Reason
}

// policyFlags say what a VM may reach.
type policyFlags struct {
	allow, deny, dns []string
	learn            bool
}

func (f *policyFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.allow, "allow", nil, "address, network or domain that it may reach, as 203.0.113.0/24, example.com, *.example.com (repeatable; beats --deny)")
	fl.StringArrayVar(&f.deny, "deny", nil, "the same that it may not reach; '*': everything that --allow does not name (repeatable)")
	fl.StringArrayVar(&f.dns, "dns", nil, "IPv4 address of a server that its names are asked of, in place of the installation's (repeatable)")
	fl.BoolVar(&f.learn, "learn", false, "let pass what the policy refuses, and note it for aetherium egress learned")
}

// policy gives what the flags say; nil when there are none.
func (f *policyFlags) policy(cmd *cobra.Command) (*api.EgressPolicy, error) {
	if !cmd.Flags().Changed("allow") && !cmd.Flags().Changed("deny") && !cmd.Flags().Changed("dns") && !f.learn {
		return nil, nil
	}
	for name, entries := range map[string][]string{"allow": f.allow, "deny": f.deny} {
		for _, e := range entries {
			if _, err := domain.NormalEgressEntry(name, e); err != nil {
				return nil, flagged(cmd, name, err)
			}
		}
	}
	if _, err := domain.NormalDNSServers("dns", f.dns); err != nil {
		return nil, flagged(cmd, "dns", err)
	}
	return &api.EgressPolicy{Allow: f.allow, Deny: f.deny, Learn: f.learn, DNS: f.dns}, nil
}

func (a *app) egressSetCommand() *cobra.Command {
	var f policyFlags
	var file string
	var noRules, noProxy bool
	cmd := &cobra.Command{
		Use:   "set VM",
		Short: "Change what a VM may reach, at once",
		Long: `Replaces a VM's policy. When the command returns the new one is in force, and
connections that it refuses are cut. Without options it is the default: all but
private and special addresses, the host and other VMs, which no policy reaches.
Rules for headers and the proxy stay unless the file has others.`,
		Example: `  aetherium egress set web --allow '*.github.com' --allow pypi.org --deny '*'
  aetherium egress learned web -o json | aetherium egress set web --file -`,
		Args: exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policy(cmd)
			if err != nil {
				return err
			}
			switch {
			case file != "" && p != nil:
				return usagef(cmd, "--file excludes --allow, --deny, --dns and --learn")
			case file != "":
				if p, err = a.readPolicy(cmd, file); err != nil {
					return err
				}
			case p == nil:
				p = &api.EgressPolicy{}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			was, err := c.Egress(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.Rules == nil && !noRules {
				p.Rules = was.Rules
			}
			if p.Proxy == nil && !noProxy {
				p.Proxy = was.Proxy
			}
			got, err := c.SetEgress(cmd.Context(), args[0], *p)
			if err != nil {
				return err
			}
			return a.showPolicy(got, args[0])
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
	f.register(cmd)
	cmd.Flags().StringVar(&file, "file", "", "policy as JSON, as -o json shows it; -: stdin")
	cmd.Flags().BoolVar(&noRules, "no-rules", false, "set no headers any longer")
	cmd.Flags().BoolVar(&noProxy, "no-proxy", false, "go through no proxy any longer")
	return cmd
}

// maxPolicyBytes bounds a policy's file.
const maxPolicyBytes = 256 << 10

func (a *app) readPolicy(cmd *cobra.Command, file string) (*api.EgressPolicy, error) {
	r := a.input(cmd.Context())
	if file != "-" {
		f, err := openLocal(cmd.Context(), file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	var p api.VMEgress // what the commands show
	d := json.NewDecoder(io.LimitReader(r, maxPolicyBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, usagef(cmd, "--file: this is no policy: %s", err)
	}
	return &p.EgressPolicy, nil
}

func (a *app) egressPolicyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policy VM",
		Short: "Show what a VM may reach",
		Args:  exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.Egress(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.showPolicy(p, args[0])
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
}

func (a *app) showPolicy(p api.VMEgress, vm string) error {
	pairs := policyPairs(p.EgressPolicy)
	if !p.InForce {
		pairs = append(pairs, [2]string{"In force", "not yet"})
	}
	return showOne(a, p, vm, pairs)
}

func policyPairs(p api.EgressPolicy) [][2]string {
	var pairs [][2]string
	for _, e := range p.Allow {
		pairs = append(pairs, [2]string{"Allow", e})
	}
	for _, e := range p.Deny {
		pairs = append(pairs, [2]string{"Deny", e})
	}
	rest := "allowed, but for private and special addresses"
	for _, e := range p.Deny {
		if e == domain.AnyDestination {
			rest = "denied"
		}
	}
	if p.Learn {
		rest += "; learning: what would be denied passes"
	}
	pairs = append(pairs, [2]string{"The rest", rest})
	for _, s := range p.DNS {
		pairs = append(pairs, [2]string{"Names from", s})
	}
	for _, r := range p.Rules {
		pairs = append(pairs, [2]string{"Headers to " + r.Host, strings.Join(slices.Sorted(maps.Keys(r.Headers)), ", ")})
	}
	if p.Proxy != nil {
		pairs = append(pairs, [2]string{"Through", p.Proxy.Address})
	}
	return pairs
}

func (a *app) egressLearnedCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "learned VM",
		Short: "Show the policy that a VM's run needed",
		Long: `Shows the policy that allows what the VM connected to by its log so far, and
nothing else. A VM made or set with --learn shows every name.`,
		Example: `  aetherium vm create --name job --deny '*' --learn
  aetherium exec job -- ./job.sh
  aetherium egress learned job`,
		Args: exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.EgressLearned(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.namesOnly() {
				return a.showNames(p.Allow)
			}
			if a.asJSON() {
				return render.JSON(a.Stdout, p)
			}
			var flags []string
			for _, e := range p.Allow {
				flags = append(flags, fmt.Sprintf("--allow '%s'", e))
			}
			flags = append(flags, "--deny '*'")
			for _, s := range p.DNS {
				flags = append(flags, "--dns "+s)
			}
			pairs := append(policyPairs(p), [2]string{"As options", strings.Join(flags, " ")})
			return render.Pairs(a.Stdout, a.human, pairs)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
}

// storedSecrets reads ENV=NAME or ENV=NAME@HOST,… of --use-secret.
func storedSecrets(cmd *cobra.Command, texts []string) ([]api.SecretUse, error) {
	var out []api.SecretUse
	uses := make([]domain.SecretUse, 0, len(texts))
	for _, t := range texts {
		env, rest, ok := strings.Cut(t, "=")
		if !ok {
			return nil, usagef(cmd, "--use-secret: %q has not the form ENV=NAME or ENV=NAME@HOST,…", t)
		}
		u := api.SecretUse{Env: env}
		var hosts string
		if u.Name, hosts, ok = strings.Cut(rest, "@"); ok {
			u.Hosts = strings.Split(hosts, ",")
		}
		out = append(out, u)
		uses = append(uses, domain.SecretUse{Name: u.Name, Env: u.Env, Hosts: u.Hosts})
	}
	if _, err := domain.NormalSecretUses("use-secret", uses); err != nil {
		return nil, flagged(cmd, "use-secret", err)
	}
	return out, nil
}
