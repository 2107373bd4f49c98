package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// vmFlags say what a new VM is made of.
type vmFlags struct {
	name      string
	template  string
	driver    string
	isolation string
	cpus      int64
	memory    int64
	disk      int64
	pids      int64
	network   string
	hostname  string
	metadata  []string
	tools     []string
	secrets   []string
	volumes   []string
	cold      bool
	egress    policyFlags
}

func (f *vmFlags) register(a *app, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name for the VM")
	fl.StringVar(&f.template, "template", "", "template (NAME or NAME:TAG), build or snapshot to make it from (default: base)")
	fl.StringVar(&f.template, "from", "", "the same as --template")
	fl.BoolVar(&f.cold, "cold", false, "make it from the disk alone, and start it anew, also where there is a memory to go on from")
	fl.StringVar(&f.driver, "driver", "", "driver to make it with: oci, firecracker, qemu, docker, or auto for one that can be used (default: the server's)")
	fl.StringVar(&f.isolation, "isolation", "", "isolate it at least so: container-root, container, gvisor or microvm; without --driver one is chosen that does")
	fl.StringVar(&f.isolation, "min-isolation", "", "")
	must(fl.MarkHidden("min-isolation")) // its name once
	fl.Var((*cpusFlag)(&f.cpus), "cpus", "cores, as 2 or 0.5")
	fl.Var((*bytesFlag)(&f.memory), "memory", "memory, as 512MiB")
	fl.Var((*bytesFlag)(&f.disk), "disk", "disk space, as 10GiB")
	fl.Int64Var(&f.pids, "pids", 0, "processes and threads at most")
	fl.StringVar(&f.network, "network", "", "none (loopback only) or nat")
	fl.StringVar(&f.hostname, "hostname", "", "host name inside")
	fl.StringArrayVar(&f.metadata, "metadata", nil, "label K=V (repeatable)")
	fl.StringArrayVar(&f.tools, "tool", nil, "program it is given beside its template's, as node@22 or npm:prettier (repeatable)")
	fl.StringArrayVar(&f.secrets, "use-secret", nil, "stored secret it is given, as ENV=NAME; as ENV=NAME@HOST,… it sees a placeholder, and requests to these hosts leave with the value (repeatable)")
	fl.StringArrayVar(&f.volumes, "volume", nil, "volume it has, as VOLUME:PATH, or VOLUME:PATH:ro where it must not write; on the driver oci (repeatable)")
	f.egress.register(cmd)
	must(cmd.RegisterFlagCompletionFunc("template", a.flagValues(a.completeTemplates)))
	must(cmd.RegisterFlagCompletionFunc("from", a.flagValues(a.completeTemplates)))
	must(cmd.RegisterFlagCompletionFunc("volume", a.completeMount))
	must(cmd.RegisterFlagCompletionFunc("network", fixed("none", "nat")))
	must(cmd.RegisterFlagCompletionFunc("driver", fixed(append([]string{domain.DriverAuto}, domain.Drivers()...)...)))
	must(cmd.RegisterFlagCompletionFunc("isolation", fixed("container-root", "container", "gvisor", "microvm")))
}

// request checks what can be checked without a server, so that a mistake is
// told at once and in the words of the command line.
func (f *vmFlags) request(cmd *cobra.Command) (api.CreateVM, error) {
	metadata, err := pairs(cmd, "metadata", f.metadata)
	if err != nil {
		return api.CreateVM{}, err
	}
	egress, err := f.egress.policy(cmd)
	if err != nil {
		return api.CreateVM{}, err
	}
	secrets, err := storedSecrets(cmd, f.secrets)
	if err != nil {
		return api.CreateVM{}, err
	}
	volumes, err := volumeMounts(cmd, f.volumes)
	if err != nil {
		return api.CreateVM{}, err
	}
	if cmd.Flags().Changed("template") && cmd.Flags().Changed("from") {
		return api.CreateVM{}, usagef(cmd, "--from is another word for --template")
	}
	r := api.Resources{MilliCPU: f.cpus, MemoryBytes: f.memory, DiskBytes: f.disk, PIDs: f.pids}
	if err := checkFirst(
		flagged(cmd, "name", domain.ValidateName("name", f.name)),
		flagged(cmd, "template", f.checkTemplate()),
		flagged(cmd, "hostname", domain.ValidateHostname("hostname", f.hostname)),
		flagged(cmd, "network", domain.NetworkMode(f.network).Validate("network")),
		flagged(cmd, "isolation", domain.Isolation(f.isolation).Validate("isolation")),
		flagged(cmd, "metadata", domain.ValidateMetadata("metadata", metadata)),
		flagged(cmd, "tool", domain.ValidateTools("tool", f.tools)),
		checkResources(cmd, r),
	); err != nil {
		return api.CreateVM{}, err
	}
	req := api.CreateVM{
		Name: f.name, Template: f.template, Driver: f.driver, MinIsolation: f.isolation,
		Network: f.network, Hostname: f.hostname, Metadata: metadata, Tools: f.tools, Egress: egress, Secrets: secrets, Volumes: volumes,
	}
	if r != (api.Resources{}) {
		req.Resources = &r
	}
	if f.cold {
		req.Memory = new(bool)
	}
	return req, nil
}

func (f *vmFlags) checkTemplate() error {
	if f.template == "" {
		return nil
	}
	return domain.ValidateTemplateRef("template", f.template)
}

// lifeFlags say how long a VM lives and what it gives its commands.
type lifeFlags struct {
	envFlags
	timeout     optionalDuration
	idleTimeout time.Duration
	onTimeout   string
	autoResume  bool
	user        string
}

func (f *lifeFlags) register(cmd *cobra.Command) {
	f.envFlags.register(cmd)
	fl := cmd.Flags()
	fl.Var(&f.timeout, "timeout", "how long it lives, as 10m; 0s: no end (default: the server's)")
	fl.Var((*durationFlag)(&f.idleTimeout), "idle-timeout", "end it after so long without use")
	fl.StringVar(&f.onTimeout, "on-timeout", "", "what happens then: kill, pause or stop (default: kill)")
	fl.BoolVar(&f.autoResume, "auto-resume", false, "traffic resumes it when paused")
	fl.StringVar(&f.user, "default-user", "", "OS user of commands that name none")
	must(cmd.RegisterFlagCompletionFunc("on-timeout", fixed("kill", "pause", "stop")))
}

func (f *lifeFlags) apply(a *app, cmd *cobra.Command, req *api.CreateVM) error {
	env, err := f.environment(a, cmd)
	if err != nil {
		return err
	}
	if err := checkFirst(
		flagged(cmd, "on-timeout", domain.OnTimeout(f.onTimeout).Validate("on-timeout")),
		flagged(cmd, "default-user", domain.ValidateUser("default-user", f.user)),
	); err != nil {
		return err
	}
	req.Env, req.TimeoutMS, req.IdleTimeoutMS = env, f.timeout.ms(), f.idleTimeout.Milliseconds()
	req.OnTimeout, req.AutoResume, req.DefaultUser = f.onTimeout, f.autoResume, f.user
	return nil
}
