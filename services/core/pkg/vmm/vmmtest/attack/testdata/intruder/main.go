// Command intruder is what a hostile guest would run: as root in a machine it
// tries to get out, and tells of each attempt whether it was refused.
//
//	intruder PART [ARGUMENT…]
//
// A line begins with "held", "BREACH" or "note", and the last one is "done".
package main

import (
	"fmt"
	"os"
)

// parts are the groups of attempts by name.
func parts() map[string]func(args []string) {
	return map[string]func([]string){
		"calls": calls, "namespaces": namespaces, "mounts": mounts, "limits": limits,
		"proc": procAndSys, "devices": devices, "descriptors": descriptors, "processes": processes,
		"capabilities": capabilities, "show-capabilities": showCapabilities,
		"sockets": sockets, "connect": connect, "scan": scan, "frames": frames, "sniff": sniff,
		"exhaust": exhaust, "maze": maze, "shared": shared, "agent": agent, "flood": flood,
		"drives": drives, "ports": ports, "crash": crash, "relay": relay,
	}
}

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	part, ok := parts()[os.Args[1]]
	if !ok {
		os.Exit(2)
	}
	part(os.Args[2:])
	fmt.Println("done")
}

// attempt runs what must not succeed.
func attempt(what string, try func() error) {
	if err := try(); err != nil {
		held(what, err)
		return
	}
	breach(what, "it succeeded")
}

func held(what string, err error) { fmt.Printf("held %s: %v\n", what, err) }
func breach(what, format string, args ...any) {
	fmt.Printf("BREACH %s: %s\n", what, fmt.Sprintf(format, args...))
}
func note(format string, args ...any) { fmt.Printf("note %s\n", fmt.Sprintf(format, args...)) }
func check(what string, ok bool, detail string) {
	if ok {
		fmt.Printf("held %s\n", what)
		return
	}
	breach(what, "%s", detail)
}
