// Package version names what was built. The linker sets both values.
package version

// Version is the release, Commit the source revision it was built from.
var (
	Version = "0.0.0-dev"
	Commit  = "unknown"
)

// String gives both for people and logs.
func String() string { return Version + " (" + Commit + ")" }
