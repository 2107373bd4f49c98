package host

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// settingEgressCA holds the authority of the egress proxy, sealed.
const settingEgressCA = storage.SealedSettings + "egress_ca"

// egressCA gives the authority that VMs with bound secrets trust; it is made
// at the first start.
func egressCA(ctx context.Context, in *installation.Installation) (*egress.CA, error) {
	damaged := func(err error) (*egress.CA, error) {
		return nil, errors.Wrap(err, errors.Internal, "the egress proxy's certificate authority cannot be read")
	}
	var stored string
	err := in.Store.View(ctx, func(tx storage.Tx) (err error) {
		stored, err = tx.Settings().Get(ctx, settingEgressCA)
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		ca, err := egress.NewCA(in.ID, moment())
		if err != nil {
			return nil, err
		}
		plain, err := json.Marshal(ca)
		if err != nil {
			return damaged(err)
		}
		sealed, err := in.Sealer.Seal(ctx, storage.SealedSetting(settingEgressCA), plain)
		if err != nil {
			return nil, err
		}
		err = in.Store.Update(ctx, func(tx storage.Tx) (err error) {
			stored, err = tx.Settings().Init(ctx, settingEgressCA, base64.StdEncoding.EncodeToString(sealed))
			return err
		})
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	sealed, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return damaged(err)
	}
	plain, err := in.Sealer.Open(ctx, storage.SealedSetting(settingEgressCA), sealed)
	if err != nil {
		return damaged(err)
	}
	ca := new(egress.CA)
	if err := json.Unmarshal(plain, ca); err != nil {
		return damaged(err)
	}
	return ca, nil
}
