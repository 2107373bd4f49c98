// Package lifecycle is the pure heart of the control plane: given what is
// wanted of a VM and what is so, [Next] names the one step that leads on, and
// the deadline functions say when time decides. It knows no driver, no store
// and no clock.
package lifecycle
