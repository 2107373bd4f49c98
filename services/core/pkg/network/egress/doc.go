// Package egress decides what a machine may reach, by its policy: pure rules
// without I/O, shared by the manager, which writes those about addresses into
// the kernel, and by netd, which decides about names.
package egress
