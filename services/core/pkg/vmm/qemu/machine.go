package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// What a monitor's root shows a guest's files as.
const (
	imageName  = "/kernel"
	initrdName = "/initrd"
	memoryName = "/memory"
	driveName  = "/drive" // and its number
)

// portName is the virtio serial port that the agent is heard on.
const portName = "aetherium.agent"

// maxDrives: of the 24 places for devices that the machine has, the network, the
// serial ports and the entropy device have one each.
const maxDrives = 24 - 3

// translations bounds what an emulating monitor keeps of the guest's code as the
// host's. It begins anew when that is full.
const translations = 128 << 20

// machine is the hardware of a guest. Two monitors that pass a guest on to each
// other are given the same.
type machine struct {
	host   *host
	cpus   int
	memory int64
	drives []drive
	net    *netDevice
	// The descriptors of the sockets that the monitor listens on, and the agent's
	// port is heard on; 0: none.
	control, agent int
	// alone: control is a connection, and nobody hears the agent.
	alone bool

	// file is what the memory is a file of; the zero value is none.
	file memoryFile
	// kernel is what it boots; nil: it waits for a guest to come in.
	kernel *bootable
}

type (
	drive struct {
		readOnly bool
		name     string // of its file in the monitor's root; "": nothing is on it
		size     int64
	}
	netDevice struct {
		tap int // its descriptor
		mac string
		mtu int
	}
	memoryFile struct {
		present bool
		shared  bool // what the guest writes goes to the file
		ready   bool // all of it is there from the beginning
	}
	bootable struct {
		image, initrd string
		line          string
	}
)

// emulated is the processor of guests that are run in software: with all that
// QEMU can do, but for what costs more there than it gives. Strings are copied
// byte by byte, so kernels and C libraries must not take that for fast, as they
// do by the first two; a fifth level of page tables is one more to walk.
const emulated = "max,erms=off,fsrm=off,la57=off"

// unneeded is what an emulated kernel does not do at its start, as a tenth of
// that is spent on it: a test of a key derivation, and the files for tracing it.
// Names that a kernel does not have are ignored.
const unneeded = "crypto_kdf108_init,tracer_init_tracefs,init_kprobe_trace,init_uprobe_trace,init_dynamic_event"

// args is the command line.
func (m *machine) args() []string {
	a := arguments{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		// The emulated machine's timers are needed: without them kernels do not boot in software.
		"-machine", "microvm,x-option-roms=off,rtc=on,auto-kernel-cmdline=off,memory-backend=ram,mem-merge=off,dump-guest-core=off",
		"-smp", strconv.Itoa(m.cpus),
		"-m", fmt.Sprintf("%dM", m.memory>>20),
	}
	if m.host.accelerator == KVM {
		a.add("-accel", "kvm", "-cpu", "host")
	} else {
		threads := "multi"
		if m.cpus == 1 {
			threads = "single" // nobody's writes are to be locked out
		}
		a.add("-accel", fmt.Sprintf("tcg,thread=%s,tb-size=%d", threads, translations>>20), "-cpu", m.host.model)
	}
	a.add("-object", m.ram())
	a = append(a, m.sockets()...)
	for i, d := range m.drives {
		// A full disk of the host is the guest's to hear of; it would stand still otherwise.
		a.add("-blockdev", d.node(i), "-device", fmt.Sprintf("virtio-blk-device,drive=drive%d,werror=report,rerror=report", i))
	}
	if m.net != nil {
		a.add("-netdev", fmt.Sprintf("tap,id=net,fd=%d", m.net.tap),
			"-device", fmt.Sprintf("virtio-net-device,netdev=net,mac=%s,host_mtu=%d", m.net.mac, m.net.mtu))
	}
	if m.control != 0 {
		a.add("-device", "virtio-serial-device,max_ports=2",
			"-device", "virtserialport,chardev=agent,name="+portName+",nr=1",
			"-device", "virtio-rng-device")
	}
	switch k := m.kernel; {
	case k == nil:
		a.add("-S", "-incoming", "defer")
	case k.initrd != "":
		a.add("-kernel", k.image, "-initrd", k.initrd, "-append", k.line)
	default:
		a.add("-kernel", k.image, "-append", k.line)
	}
	return a
}

// sockets are the ways to the monitor, its guest's agent, and what the guest's
// kernel says last, for who asks why it ended.
func (m *machine) sockets() []string {
	var a arguments
	if m.control == 0 {
		return nil
	}
	if m.alone {
		a.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", m.control), "-chardev", "null,id=agent")
	} else {
		a.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d,server=on,wait=off", m.control),
			"-chardev", fmt.Sprintf("socket,id=agent,fd=%d,server=on,wait=off", m.agent))
	}
	a.add("-mon", "chardev=qmp,mode=control", "-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console")
	return a
}

type arguments []string

func (a *arguments) add(words ...string) { *a = append(*a, words...) }

// ram is the memory's backend. Its name is the same for all, for it is what a
// saved memory is found by.
func (m *machine) ram() string {
	size := fmt.Sprintf("id=ram,size=%d", m.memory)
	switch {
	case !m.file.present:
		return "memory-backend-ram," + size
	case m.file.shared:
		return "memory-backend-file," + size + ",mem-path=" + memoryName + ",share=on,prealloc=" + onOff(m.file.ready)
	}
	backend := "memory-backend-file," + size + ",mem-path=" + memoryName + ",share=off"
	if m.host.atLeast(8, 2) {
		backend += ",readonly=on,rom=off" // the file; the memory is the guest's to write
	}
	return backend
}

// node is the block device below a drive.
func (d drive) node(i int) string {
	common := fmt.Sprintf("node-name=drive%d,read-only=%s", i, onOff(d.readOnly))
	if d.name == "" {
		return fmt.Sprintf("driver=null-co,size=%d,read-zeroes=on,", d.size) + common
	}
	// Drives are locked by whose they are. Read ahead and write back are the host's.
	node := "driver=file,filename=" + d.name + ",locking=off,aio=threads,cache.direct=off," + common
	if !d.readOnly {
		node += ",discard=unmap,detect-zeroes=unmap"
	}
	return node
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// bootImage is the file that boots fastest: one that need not be uncompressed by
// the guest.
func bootImage(k microvm.Kernel) string {
	if k.ELF != "" {
		return k.ELF
	}
	return k.Image
}

// commandLine is what the guest's kernel is told.
func (e *Engine) commandLine(h *host, g microvm.Guest) string {
	words := []string{
		// It says nothing but why it ends, and then its monitor ends too.
		"console=ttyS0", "quiet", "loglevel=1", "panic=-1", "reboot=t",
		"random.trust_cpu=on",          // it is the host's, or QEMU's, which is as good
		"cryptomgr.notests",            // of ciphers that distributions have tested
		"rcupdate.rcu_expedited=1",     // grace periods cost nothing on few processors
		"noreplace-smp",                // patching locks away takes longer than it gains
		"no_timer_check",               // finds fault with an emulated timer on a busy host
		"transparent_hugepage=madvise", // what a guest writes is copied page by page
	}
	if h.accelerator == TCG {
		words = append(words,
			"mitigations=off", // there is no speculation in software
			// Code is translated for the address that it is run at: programs that are
			// laid out anew each time are translated each time. Guests may have it back, by
			// kernel.randomize_va_space (sysctl(8)).
			"norandmaps",
			"initcall_blacklist="+unneeded,
		)
		if rate := e.tsc(); rate != 0 {
			words = append(words, "tsc_early_khz="+strconv.FormatUint(rate, 10), "tsc=reliable")
		}
	}
	line := bootline.Line{Channel: portName}
	for i, d := range g.Drives {
		line.Drives = append(line.Drives, bootline.Drive{Device: diskName(i), Role: d.Role})
	}
	return strings.Join(append(words, line.String()), " ")
}

// diskName is what the guest calls a drive: they are found in their order.
func diskName(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return "vd" + name
}

// drivesOf describes a guest's drives, and what the root shows for them.
func drivesOf(g microvm.Guest) (drives []drive, files []shown, err error) {
	for i, d := range g.Drives {
		info, err := os.Stat(d.Path)
		if err != nil {
			return nil, nil, err
		}
		name := driveName + strconv.Itoa(i)
		drives = append(drives, drive{readOnly: d.ReadOnly, name: name, size: info.Size()})
		files = append(files, shown{name: name, path: d.Path, writable: !d.ReadOnly})
	}
	return drives, files, nil
}
