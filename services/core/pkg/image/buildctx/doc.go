// Package buildctx reads the files that a template's build copies from: a tar
// that a client sent. The tar is never unpacked on the host; it is read once
// to know what is in it, and again for each copy that is really made.
//
// It comes from a stranger. Names that are absolute, that climb, that lead
// through a link or that come twice are refused, as are devices, pipes and
// hard links; counts and sizes are bounded. Symbolic links are data: they are
// followed only within the context, and only where a source names one.
package buildctx
