package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
)

// kernel is about what machines with a kernel of their own boot.
func (p *program) kernel() *cobra.Command {
	cmd := &cobra.Command{Use: "kernel", Short: "The kernel of machines that have one of their own"}
	cmd.AddCommand(p.kernelInstall())
	return cmd
}

func (p *program) kernelInstall() *cobra.Command {
	var deb string
	var keep bool
	cmd := &cobra.Command{
		Use: "install", Short: "Fetch Debian's kernel for virtual machines, and unpack it for the drivers qemu and firecracker",
		Long: "Fetches Debian's kernel for virtual machines by apt, or takes its package from a file, and unpacks it into the\n" +
			"data directory. Nothing is installed on the host, and its own boot stays as it is.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			_, err = kernel.Find(s.KernelDir())
			switch {
			case keep && err == nil:
			case deb == "":
				err = kernel.FetchDebian(cmd.Context(), s.KernelDir())
			default:
				err = kernel.UnpackDebian(cmd.Context(), deb, s.KernelDir())
			}
			if err != nil {
				return err
			}
			source, err := kernel.Find(s.KernelDir())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.Stdout, "%s is there for new machines; a server that runs finds it when it is started anew\n", source.Image)
			return err
		},
	}
	cmd.Flags().StringVar(&deb, "deb", "", "the kernel's Debian package as a `file`, instead of fetching it")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave a kernel alone that is there already")
	return cmd
}
