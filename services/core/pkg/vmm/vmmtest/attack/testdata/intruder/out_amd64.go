package main

// out writes to a port of the processor.
func out(port uint16, value byte)
