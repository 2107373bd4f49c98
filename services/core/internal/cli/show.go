package cli

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// listing is how a kind of thing is shown.
type listing[T any] struct {
	titles []string
	row    func(T) []render.Cell
	name   func(T) string
}

func (a *app) namesOnly() bool { return a.flags.quiet || a.flags.output == "name" }

func (a *app) asJSON() bool { return a.flags.output == "json" && !a.flags.quiet }

// showAll shows a list.
func showAll[T any](a *app, items []T, l listing[T]) error {
	switch {
	case a.namesOnly():
		return a.showNames(items2names(items, l.name))
	case a.asJSON():
		return render.JSON(a.Stdout, items)
	}
	rows := make([][]render.Cell, len(items))
	for i, item := range items {
		rows[i] = l.row(item)
	}
	return render.Table(a.Stdout, a.human, l.titles, rows)
}

// listCommand is `ls` of what the API gives in pages.
func listCommand[T any](a *app, short string, pages func(*client.Client, context.Context, client.Page) iter.Seq2[T, error], shown func(now time.Time) listing[T]) *cobra.Command {
	var page client.Page
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   short,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(cmd, page.Limit); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := client.Collect(pages(c, cmd.Context(), page))
			if err != nil {
				return err
			}
			return showAll(a, items, shown(a.Now()))
		},
	}
	cmd.Flags().IntVar(&page.Limit, "limit", 0, "so many at most")
	return cmd
}

func items2names[T any](items []T, name func(T) string) []string {
	names := make([]string, len(items))
	for i, item := range items {
		names[i] = name(item)
	}
	return names
}

func (a *app) showNames(names []string) error {
	rows := make([][]render.Cell, len(names))
	for i, n := range names {
		rows[i] = []render.Cell{render.Text(n)}
	}
	return render.Table(a.Stdout, false, nil, rows)
}

// showOne shows one thing with its properties.
func showOne[T any](a *app, item T, name string, pairs [][2]string) error {
	switch {
	case a.namesOnly():
		return a.showNames([]string{name})
	case a.asJSON():
		return render.JSON(a.Stdout, item)
	}
	return render.Pairs(a.Stdout, a.human, pairs)
}

// showDone shows things that a command has made or changed: all of them as
// JSON, else their names.
func showDone[T any](a *app, items []T, name func(T) string) error {
	if !a.asJSON() {
		return a.showNames(items2names(items, name))
	}
	if len(items) == 1 {
		return render.JSON(a.Stdout, items[0])
	}
	return render.JSON(a.Stdout, items)
}

// changeEach is a command that changes things, each by itself, and shows those
// that it has changed. Use is its name and the word for what it takes.
func changeEach[T any](a *app, use, short string, do func(*client.Client, context.Context, string) (T, error), name func(T) string, complete cobra.CompletionFunc) *cobra.Command {
	_, word, _ := strings.Cut(strings.TrimSuffix(use, "…"), " ")
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  atLeastOne(word),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var done []T
			for _, arg := range args {
				one, err := do(c, cmd.Context(), arg)
				if err != nil {
					return errors.Join(showDone(a, done, name), err)
				}
				done = append(done, one)
			}
			return showDone(a, done, name)
		},
		ValidArgsFunction: complete,
	}
}

// given is a cell for a value of which zero means that there is none.
func given(n int64, c render.Cell) render.Cell {
	if n == 0 {
		return render.Text("")
	}
	return c
}

func resources(r api.Resources) string {
	return units.CPUs(r.MilliCPU) + " CPU, " + units.Bytes(r.MemoryBytes) + " memory, " + units.Bytes(r.DiskBytes) + " disk"
}
