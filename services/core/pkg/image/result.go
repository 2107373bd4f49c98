package image

import (
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Line is one step of a build's progress, for its log and for people.
type Line struct {
	Time  time.Time `json:"time"`
	Step  string    `json:"step"` // "pull", "unpack", "packages", "copy", "finish", "check", "digest"
	Text  string    `json:"text"` // one line, printable
	Done  int64     `json:"done,omitempty"`
	Total int64     `json:"total,omitempty"` // bytes or entries as Text says; 0: not known
}

// Progress receives lines, one at a time, while a build goes on. It must not
// block for long: the build waits for it. Nil is allowed.
type Progress func(Line)

// Result is a complete build.
type Result struct {
	ID       string                `json:"id"`
	RootFS   string                `json:"-"`      // absolute path of the tree
	Digest   string                `json:"digest"` // "sha256:…" of the manifest; equal content has equal digests
	Bytes    int64                 `json:"bytes"`  // content of its files
	Entries  int64                 `json:"entries"`
	Platform string                `json:"platform"` // "linux/amd64"
	Source   domain.TemplateSource `json:"source"`
	// Pinned is the image reference with its digest; empty for other sources.
	Pinned  string            `json:"pinned,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	WorkDir string            `json:"work_dir"` // absolute; empty: the user's home
	// User is the account that commands run as by default: the image's own
	// where it names one ("name", "uid" or either with ":group"), else "user".
	User      string        `json:"user"`
	CreatedAt time.Time     `json:"created_at"`
	Took      time.Duration `json:"took_ns"`
}
