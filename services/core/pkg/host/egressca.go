package host

import (
	"context"
	"encoding/json"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/setting"
)

// settingEgressCA holds the authority of the egress proxy, sealed.
const settingEgressCA = storage.SealedSettings + "egress_ca"

// egressCA gives the authority that VMs with bound secrets trust; it is made
// at the first start.
func egressCA(ctx context.Context, in *installation.Installation) (*egress.CA, error) {
	plain, err := setting.Once(ctx, in.Store, in.Sealer, settingEgressCA, func() ([]byte, error) {
		ca, err := egress.NewCA(in.ID, in.Now().UTC())
		if err != nil {
			return nil, err
		}
		return json.Marshal(ca)
	})
	if err != nil {
		return nil, err
	}
	ca := new(egress.CA)
	if err := json.Unmarshal(plain, ca); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the egress proxy's certificate authority cannot be read")
	}
	return ca, nil
}
