package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Tool is a program that VMs are given beside their template: a name, alone or
// behind the package manager that it comes from (npm:prettier), and a version.
type Tool struct {
	Name    string
	Version string // exact, the beginning of one, or LatestVersion; never empty once parsed
}

// LatestVersion is the newest version there is.
const LatestVersion = "latest"

// The bounds on tools. They end up in paths and in arguments of commands.
const (
	MaxTools     = 16
	maxToolBytes = 200
)

var (
	toolNameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	toolPackageForm = regexp.MustCompile(`^(?:npm:@[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[A-Za-z0-9][A-Za-z0-9._-]{0,62}|(?:npm|pipx|cargo|gem):[A-Za-z0-9][A-Za-z0-9._-]{0,62}|(?:go|aqua|ubi|github):[A-Za-z0-9][A-Za-z0-9._-]{0,62}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){1,6})$`)
	toolVersionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$`)
	notInDirectory  = regexp.MustCompile(`[^a-z0-9]+`)
)

// ParseTool reads NAME or NAME@VERSION. Returns InvalidArgument.
func ParseTool(field, text string) (Tool, error) {
	t := Tool{Name: text, Version: LatestVersion}
	// npm's scopes begin with the same sign as versions.
	if at := strings.LastIndexByte(text, '@'); at > 0 && text[at-1] != ':' {
		t.Name, t.Version = text[:at], text[at+1:]
	}
	bad := func() (Tool, error) {
		return Tool{}, invalid(field, "%q is not a tool", clip(text, 64)).WithHint("a tool is NAME or NAME@VERSION, such as node@22, npm:prettier or npm:@scope/name@1.2")
	}
	switch {
	case len(text) > maxToolBytes, !toolNameForm.MatchString(t.Name) && !toolPackageForm.MatchString(t.Name):
		return bad()
	case !toolVersionForm.MatchString(t.Version), strings.Contains(text, ".."), t.Version == "system":
		return bad()
	}
	return t, nil
}

// String gives NAME@VERSION.
func (t Tool) String() string { return t.Name + "@" + t.Version }

// Dir is the tool's name as one that a directory can have. Different tools
// have different ones.
func (t Tool) Dir() string {
	if !strings.Contains(t.Name, ":") {
		return t.Name
	}
	sum := sha256.Sum256([]byte(t.Name))
	plain := strings.Trim(notInDirectory.ReplaceAllString(strings.ToLower(t.Name), "-"), "-")
	return plain[:min(len(plain), 40)] + "-" + hex.EncodeToString(sum[:4])
}

// ParseTools reads a list of tools, each at most once. Returns InvalidArgument.
func ParseTools(field string, list []string) ([]Tool, error) {
	if len(list) > MaxTools {
		return nil, invalid(field, "%d tools, at most %d are allowed", len(list), MaxTools)
	}
	tools := make([]Tool, 0, len(list))
	for _, text := range list {
		t, err := ParseTool(field, text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(tools, func(o Tool) bool { return o.Name == t.Name }) {
			return nil, invalid(field, "the tool %s is named twice", t.Name)
		}
		tools = append(tools, t)
	}
	return tools, nil
}

// ValidateTools checks a list of tools.
func ValidateTools(field string, list []string) error {
	_, err := ParseTools(field, list)
	return err
}

// MergeTools gives the tools of both lists; where both name one, more's version
// counts. Both lists are valid. Returns InvalidArgument for too many.
func MergeTools(field string, base, more []string) ([]string, error) {
	if len(more) == 0 {
		return slices.Clone(base), nil
	}
	asked, err := ParseTools(field, more)
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(slices.Clone(base), func(text string) bool {
		t, err := ParseTool(field, text)
		return err != nil || slices.ContainsFunc(asked, func(o Tool) bool { return o.Name == t.Name })
	})
	for _, t := range asked {
		out = append(out, t.String())
	}
	if len(out) > MaxTools {
		return nil, errors.New(errors.InvalidArgument, "%d tools with those that every VM gets, at most %d are allowed", len(out), MaxTools).WithField(field)
	}
	return out, nil
}
