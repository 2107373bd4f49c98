package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// wanted are the modules that a guest may need, those that it has no use for
// being left out: which it loads is the agent's to decide.
var wanted = []string{
	"virtio_mmio", "virtio_pci", // the buses
	"virtio_blk", "virtio_net", "virtio_console", "vmw_vsock_virtio_transport", "virtio_rng", "virtio_balloon",
	"erofs", "squashfs", "ext4", "overlay",
	"tcp_diag", // closes connections, see Assume
}

// maxModule bounds a module's size.
const maxModule = 64 << 20

// module is one, uncompressed.
type module struct {
	name      string // with underscores
	content   []byte
	signature []byte   // that was at its end, if it was signed
	needs     []string // other modules' names
}

// modules reads the wanted modules and what they depend on from a directory,
// each after those that it needs. What is not there is built in, or a driver
// that this kernel does not have. An empty dir has none.
func modules(dir string) ([]module, error) {
	if dir == "" {
		return nil, nil
	}
	paths, err := index(dir)
	if err != nil {
		return nil, err
	}
	var list []module
	state := map[string]bool{} // false: under way
	var visit func(name string) error
	visit = func(name string) error {
		path, there := paths[name]
		if done, seen := state[name]; !there || seen {
			if seen && !done {
				return errors.New(errors.InvalidArgument, "the kernel module %s depends on itself", name)
			}
			return nil
		}
		state[name] = false
		m, err := readModule(name, path)
		if err != nil {
			return err
		}
		for _, need := range m.needs {
			if err := visit(need); err != nil {
				return err
			}
		}
		state[name] = true
		list = append(list, m)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// index finds the modules below a directory by their names.
func index(dir string) (map[string]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			paths[strings.ReplaceAll(name, "-", "_")] = path
		}
		return nil
	})
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the kernel's modules cannot be read")
	}
	return paths, nil
}

func readModule(name, path string) (module, error) {
	m := module{name: name}
	content, err := os.ReadFile(path)
	if err != nil {
		return m, errors.Wrap(err, errors.InvalidArgument, "the kernel module %s cannot be read", name)
	}
	if !isELF(content) {
		r, err := decompressor(content)
		if err == nil {
			content, err = io.ReadAll(io.LimitReader(r, maxModule))
		}
		if err != nil {
			return m, errors.Wrap(err, errors.InvalidArgument, "the kernel module %s cannot be unpacked", name)
		}
	}
	m.content, m.signature = unsigned(content)
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return m, errors.Wrap(err, errors.InvalidArgument, "the kernel module %s is not an ELF file", name)
	}
	// What depmod(8) goes by too: "key=value" strings (include/linux/moduleinfo.h).
	info := f.Section(".modinfo")
	if info == nil {
		return m, errors.New(errors.InvalidArgument, "the kernel module %s does not tell what it needs", name)
	}
	text, err := info.Data()
	if err != nil {
		return m, errors.Wrap(err, errors.InvalidArgument, "the kernel module %s does not tell what it needs", name)
	}
	for entry := range strings.SplitSeq(string(text), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok {
			m.needs = append(m.needs, names(strings.ReplaceAll(list, ",", " "))...)
		}
		if list, ok := strings.CutPrefix(entry, "softdep=pre:"); ok {
			list, _, _ = strings.Cut(list, "post:")
			for _, name := range names(list) {
				// It may be what several implementations of an algorithm are called.
				m.needs = append(m.needs, name, name+"_generic")
			}
		}
	}
	slices.Sort(m.needs)
	m.needs = slices.Compact(m.needs)
	return m, nil
}

// signedMark ends the file of a signed module, and trailer is the length of what
// is before it: struct module_signature, whose last four bytes are the length of
// the signature itself (scripts/sign-file.c in Linux).
const (
	signedMark = "~Module signature appended~\n"
	trailer    = 12
)

// unsigned parts a module from its signature. A guest's modules are its host's,
// as its kernel is; to have it check them is a large part of an emulated boot.
func unsigned(file []byte) (content, signature []byte) {
	rest, signed := bytes.CutSuffix(file, []byte(signedMark))
	if !signed || len(rest) < trailer {
		return file, nil
	}
	size := int64(binary.BigEndian.Uint32(rest[len(rest)-4:])) + trailer
	if size > int64(len(rest)) {
		return file, nil
	}
	end := len(rest) - int(size)
	return file[:end], file[end:]
}

// names reads module names, which are written with hyphens in some places.
func names(list string) []string {
	return strings.Fields(strings.ReplaceAll(list, "-", "_"))
}

// order is the table of modules for the agent: one a line, each after those
// that it needs, whose names follow it.
func order(list []module) []byte {
	there := map[string]bool{}
	var b bytes.Buffer
	for _, m := range list {
		there[m.name] = true
		b.WriteString(m.name)
		for _, need := range m.needs {
			if there[need] {
				b.WriteString(" " + need)
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
