package httpapi

import (
	"math"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// credentialBody is what staff see of a credential: never what it proves.
type credentialBody struct {
	CredentialID string     `json:"credential_id"`
	Kind         string     `json:"kind"` // secret, hmac, x509
	CreatedAt    time.Time  `json:"created_at"`
	ExpiresAt    *time.Time `json:"expires_at"`
}

func newCredentialBody(c registry.CredentialMeta) credentialBody {
	return credentialBody{number(c.ID), string(c.Kind), c.CreatedAt.UTC(), stamp(c.ExpiresAt)}
}

func (a *api) addCredential(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Kind              string `json:"kind"`
		SecretHash        string `json:"secret_hash"`
		CertificatePEM    string `json:"certificate_pem"`
		RetireOldAfterSec int64  `json:"retire_old_after_sec"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Kind == "" || in.SecretHash == "" && in.CertificatePEM == "" {
		return answer{}, account.ErrMissingFields
	}
	c, err := a.Registry.AddCredential(r.Context(), r.actor, id, registry.CredentialRequest{
		Kind: in.Kind, SecretHash: in.SecretHash, CertificatePEM: in.CertificatePEM,
		RetireOldAfter: seconds(in.RetireOldAfterSec),
	})
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newCredentialBody(c)}, nil
}

// seconds is a duration; the longest there is for more, which the domain refuses.
func seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(max(min(n, most), -most)) * time.Second
}
