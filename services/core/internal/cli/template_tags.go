package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) templateGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get NAME",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a template, its tags and its newest builds",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkTemplateName(cmd, args[0]); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.Template(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showOne(a, t, t.Name, describeTemplate(t))
		},
		ValidArgsFunction: a.firstArg(a.completeTemplates),
	}
}

func describeTemplate(t api.Template) [][2]string {
	p := [][2]string{{"ID", t.ID}, {"Name", t.Name}, {"Updated", at(&t.UpdatedAt)}}
	for _, tag := range slices.Sorted(maps.Keys(t.Tags)) {
		p = append(p, [2]string{"Tag", tag + " " + t.Tags[tag]})
	}
	for _, b := range t.Builds {
		p = append(p, [2]string{"Build", strings.Join([]string{b.ID, b.State, at(&b.CreatedAt), sourceText(b.Source)}, " ")})
	}
	return p
}

func (a *app) templateTagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tag NAME[:TAG|@BUILD] TAG",
		Short: "Point a tag at a build of a template",
		Long: `Makes a tag, or moves it: from then on NAME:TAG means the build that NAME, another
tag or the ID of a build of the template names. VMs that are there go on with theirs.`,
		Example: `  aetherium template tag app stable
  aetherium template tag app:v1 latest
  aetherium template tag app@k3v9x2m1q8w7e6r5t4y3 v1`,
		Args: exactly("NAME", "TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, req, err := buildRef(cmd, args[0])
			if err == nil {
				err = checkTag(cmd, args[1])
			}
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.TagTemplate(cmd.Context(), name, args[1], req)
			if err != nil {
				return err
			}
			return showDone(a, []api.TemplateTag{t}, func(t api.TemplateTag) string { return name + ":" + t.Tag })
		},
		ValidArgsFunction: a.firstArg(a.completeTemplates),
	}
}

// buildRef reads NAME, NAME:TAG or NAME@BUILD.
func buildRef(cmd *cobra.Command, text string) (name string, req api.TagTemplate, err error) {
	name, build, byID := strings.Cut(text, "@")
	if byID {
		if !domain.IsID(build) {
			return "", req, usage(cmd, wrongArgument("%q is not the ID of a build", build).WithHint("`aetherium template get %s` lists builds", name))
		}
		return name, api.TagTemplate{Build: build}, checkTemplateName(cmd, name)
	}
	name, tag, tagged := strings.Cut(text, ":")
	if !tagged {
		tag = domain.DefaultTag
	}
	return name, api.TagTemplate{Tag: tag}, checkFirst(checkTemplateName(cmd, name), checkTag(cmd, tag))
}

func checkTag(cmd *cobra.Command, tag string) error {
	if isRef(tag) && !domain.IsID(tag) {
		return nil
	}
	return usage(cmd, wrongArgument("%q is not a tag", tag).WithHint("1 to 63 letters, digits, dots, dashes and underscores"))
}

func checkTags(cmd *cobra.Command, tags []string) error {
	for _, tag := range tags {
		if err := checkTag(cmd, tag); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) templateUntagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "untag NAME TAG",
		Short: "Remove a tag of a template; its build stays",
		Args:  exactly("NAME", "TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, tag := args[0], args[1]
			if err := checkFirst(checkTemplateName(cmd, name), checkTag(cmd, tag)); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.UntagTemplate(cmd.Context(), name, tag); err != nil {
				return err
			}
			return showDone(a, []removed{{Name: name + ":" + tag}}, func(r removed) string { return r.Name })
		},
		ValidArgsFunction: a.completeTags,
	}
}

// completeTags offers a template, and then its tags that can be removed.
func (a *app) completeTags(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.completeTemplates(cmd, args, toComplete)
	case 1:
		return a.offer(cmd, nil, func(ctx context.Context, c *client.Client) ([]string, error) {
			t, err := c.Template(ctx, args[0])
			delete(t.Tags, domain.DefaultTag)
			return describeEach(slices.Sorted(maps.Keys(t.Tags)), func(tag string) string { return tag + "\t" + t.Tags[tag] }), err
		})
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
