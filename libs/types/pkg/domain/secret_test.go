package domain_test

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestSecretValue(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"x", "-----BEGIN KEY-----\nabc\n", "pässwörd", strings.Repeat("x", domain.MaxSecretBytes)} {
		if err := domain.ValidateSecretValue("value", good); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "hunter2\x00", "hunter2\xff", strings.Repeat("hunter2", domain.MaxSecretBytes/7+1)} {
		err := domain.ValidateSecretValue("value", bad)
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != "value" {
			t.Errorf("%.20q: %v", bad, err)
		} else if strings.Contains(e.Message+e.Hint, "hunter") {
			t.Errorf("the value shows: %v", err)
		}
	}
}
