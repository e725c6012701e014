package registry

import (
	"crypto/x509"
	"time"
)

// ClientCertificate is the certificate at the head of what a TLS client presented, and
// whether one of the CAs vouches for the chain, for a [Login]; nil when there is none.
// [Registry.Authenticate] judges its name and its fingerprint.
func ClientCertificate(chain []*x509.Certificate, cas *x509.CertPool, now time.Time) (leaf *x509.Certificate, byCA bool) {
	if len(chain) == 0 {
		return nil, false
	}
	if cas == nil {
		return chain[0], false
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: cas, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return chain[0], err == nil
}
