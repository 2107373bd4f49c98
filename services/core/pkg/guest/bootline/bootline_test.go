package bootline_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

func TestLine(t *testing.T) {
	t.Parallel()
	line := bootline.Line{
		Drives:  []bootline.Drive{{Device: "vda", Role: bootline.RoleRoot}, {Device: "vdb", Role: bootline.RoleDisk}, {Device: "vdc", Role: bootline.RoleMount + "/opt/a b@1%2F&c+d"}, {Device: "vdd", Role: bootline.RoleFile + "/etc/x.sh"}},
		Channel: "aetherium.agent",
	}
	got, err := bootline.Parse("console=ttyS0 quiet " + line.String() + " panic=-1\n")
	if err != nil || !reflect.DeepEqual(got, line) {
		t.Errorf("%+v, %v", got, err)
	}
	if text := line.String(); !strings.Contains(text, "vdd:file:/etc/x.sh") || strings.ContainsAny(text, " \"") {
		t.Errorf("%s", text)
	}
	if err := bootline.CheckLength(strings.Repeat("x", bootline.MaxCommandLine)); err != nil {
		t.Error(err)
	}
	if err := bootline.CheckLength(strings.Repeat("x", bootline.MaxCommandLine+1)); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a line that is too long: %v", err)
	}
	if _, err := bootline.Parse("quiet"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("without it: %v", err)
	}
	root, disk := line.Drives[0], line.Drives[1]
	for name, bad := range map[string]bootline.Line{
		"no disk":    {Drives: []bootline.Drive{root}, Channel: "x"},
		"two roots":  {Drives: []bootline.Drive{root, root, disk}, Channel: "x"},
		"no channel": {Drives: []bootline.Drive{root, disk}},
		"a role":     {Drives: []bootline.Drive{root, disk, {Device: "vdc", Role: "swap"}}, Channel: "x"},
		"a path":     {Drives: []bootline.Drive{root, disk, {Device: "vdc", Role: "mount:/a/../b"}}, Channel: "x"},
		"a file":     {Drives: []bootline.Drive{root, disk, {Device: "vdc", Role: "file:/"}}, Channel: "x"},
		"a device":   {Drives: []bootline.Drive{root, disk, {Device: "../vdc", Role: "mount:/a"}}, Channel: "x"},
	} {
		if _, err := bootline.Parse(bad.String()); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bootline.Parse(bootline.Param + "=%%"); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("garbage: %v", err)
	}
}
