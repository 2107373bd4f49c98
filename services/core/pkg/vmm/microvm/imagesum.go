package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path/filepath"
	"strings"
)

const sumPrefix = "sha256-"

// imageName is the name of an image with a sum.
func imageName(sum string) string { return sumPrefix + sum + imageExt }

// imageSum is what is in an image: its name says it, or it is read.
func imageSum(ctx context.Context, path string) (string, error) {
	if sum, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(path), imageExt), sumPrefix); ok {
		return sum, nil
	}
	return readSum(ctx, path)
}

// readSum is the SHA-256 of an image but for when it was made and what it is
// called, which its superblock says (erofs, "On-disk layout"): whoever has it
// mounted reads that never again.
func readSum(ctx context.Context, path string) (string, error) {
	f, _, err := openSaved(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, buf := sha256.New(), make([]byte, mib)
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.ReadFull(f, buf)
		if first && n >= 2048 {
			const super = 1024
			clear(buf[super+4 : super+8])   // checksum
			clear(buf[super+24 : super+36]) // build_time, build_time_nsec
			clear(buf[super+48 : super+64]) // uuid
		}
		sum.Write(buf[:n])
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // as readers give it
			return hex.EncodeToString(sum.Sum(nil)), nil
		case err != nil:
			return "", err
		}
	}
}
