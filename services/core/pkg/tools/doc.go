// Package tools keeps programs that VMs are given beside their template: a
// directory for each version of a tool, installed once, mounted read-only into
// any number of VMs.
//
// Tools are installed by mise, in a machine that is made for it and removed
// after it: an installation is code of strangers and never runs on the host.
// What it made leaves the machine as an archive, is unpacked within bounds and
// published by one rename, so that a crash leaves nothing half done.
//
// The package knows no driver: who has machines gives it a way to boot one.
package tools
