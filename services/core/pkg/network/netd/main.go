package netd

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// ReadyFD is the descriptor of the pipe that the starter listens on.
const ReadyFD = 3

// ReadyWord is what netd says on the pipe once it serves. Anything else is
// why it does not.
const ReadyWord = "ok"

// Main is the program: it reads the configuration that args names, serves
// until ctx ends and tells its starter through [ReadyFD] how that went.
func Main(ctx context.Context, args []string, log *slog.Logger) error {
	tell := starter()
	if len(args) != 1 {
		return errors.New(errors.InvalidArgument, "usage: netd CONFIG.json")
	}
	raw, err := os.ReadFile(args[0])
	if err == nil {
		var cfg Config
		if err = json.Unmarshal(raw, &cfg); err == nil {
			err = Run(ctx, cfg, log, func() { tell(ReadyWord) })
		}
	}
	if err != nil {
		tell(err.Error())
	}
	return err
}

// starter gives a function that says one word to whoever started netd, once;
// to nobody when descriptor 3 is no pipe.
func starter() func(string) {
	var st unix.Stat_t
	if unix.Fstat(ReadyFD, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return func(string) {}
	}
	unix.CloseOnExec(ReadyFD)
	pipe := os.NewFile(ReadyFD, "ready")
	return func(word string) {
		if pipe != nil {
			_, _ = io.WriteString(pipe, word)
			_ = pipe.Close()
			pipe = nil
		}
	}
}
