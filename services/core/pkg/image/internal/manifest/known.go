package manifest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// knownFiles tells the content of a known tree's files by their paths.
type knownFiles []knownTree

type knownTree struct {
	root  string
	files map[string]string
}

func contents(known []Known) (knownFiles, error) {
	var all knownFiles
	for _, k := range known {
		files, err := read(k.File)
		if err != nil {
			return nil, err
		}
		all = append(all, knownTree{k.Root, files})
	}
	return all, nil
}

// content gives the digest of the file at a path if a known tree has the same
// file there; else nothing.
func (k knownFiles) content(path string, id inode) string {
	for _, t := range k {
		digest, ok := t.files[path]
		if !ok {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(t.root, path), &st) == nil && (inode{uint64(st.Dev), st.Ino}) == id { //nolint:unconvert // Dev is not 64 bits wide everywhere
			return digest
		}
	}
	return ""
}

// read gives the content digests of regular files in a manifest, under each of
// their names.
func read(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string]string{}
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<10) // two quoted paths
	for n := 1; in.Scan(); n++ {
		line := in.Text()
		if !strings.HasPrefix(line, "f ") && !strings.HasPrefix(line, "h ") {
			continue
		}
		content, path, ok := fields(line)
		if !ok {
			return nil, fmt.Errorf("%s: line %d is damaged", file, n)
		}
		if line[0] == 'h' {
			content = files[content]
		}
		files[path] = content
	}
	return files, in.Err()
}

// fields gives content and path of a line that entry.write wrote.
func fields(line string) (content, path string, ok bool) {
	parts := strings.SplitN(line, " ", 6)
	if len(parts) != 6 {
		return "", "", false
	}
	quoted, err := strconv.QuotedPrefix(parts[5])
	if err != nil {
		return "", "", false
	}
	_, last, found := strings.Cut(strings.TrimPrefix(parts[5][len(quoted):], " "), " ")
	content, cerr := strconv.Unquote(quoted)
	path, perr := strconv.Unquote(last)
	return content, path, found && cerr == nil && perr == nil
}
