package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	leafLife   = 397 * 24 * time.Hour // the longest that browsers accept
	leafMargin = 30 * 24 * time.Hour  // a leaf that ends sooner is issued again
	backdate   = time.Hour            // for clients whose clock is behind
)

// DevCA makes a certificate authority for development and a server certificate from it (ECDSA P-256): ca.pem,
// ca-key.pem, server.pem and server-key.pem in dir, which it creates. The certificate is for localhost, 127.0.0.1, ::1,
// the host's name and hosts. What is there and still good is kept; a leaf that ends within 30 days or lacks a name is
// issued again, so devices that trust ca.pem notice nothing. Keys are readable by their owner only.
//
// It fails when a file cannot be written, or when ca.pem is there without the key that belongs to it: that one it does
// not replace, because somebody may trust it.
func DevCA(dir string, hosts ...string) (certFile, keyFile, caFile string, err error) {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	a := authority{dir: dir, names: names, now: time.Now()}
	if err := a.ensure(); err != nil {
		return "", "", "", fmt.Errorf("broker: development CA: %w", err)
	}
	return a.path("server.pem"), a.path("server-key.pem"), a.path("ca.pem"), nil
}

// authority is the development CA at one moment.
type authority struct {
	dir   string
	names []string
	now   time.Time

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) ensure() error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	var err error
	a.cert, a.key, err = a.load("ca")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = a.found()
	case err == nil && a.now.Add(leafMargin).After(a.cert.NotAfter):
		err = a.found()
	}
	if err != nil {
		return err
	}
	if leaf, _, err := a.load("server"); err == nil && a.covers(leaf) {
		return nil
	}
	return a.issue()
}

// found makes a new authority.
func (a *authority) found() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := a.template("devicecloud development CA", caLife)
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	a.cert, a.key = template, key
	a.cert, err = a.sign("ca", template, key)
	return err
}

// issue makes a new leaf.
func (a *authority) issue() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := a.template("devicecloud", leafLife)
	if err != nil {
		return err
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	_, err = a.sign("server", template, key)
	return err
}

// covers reports whether the leaf is from this authority, long enough valid and for all names.
func (a *authority) covers(leaf *x509.Certificate) bool {
	if leaf.CheckSignatureFrom(a.cert) != nil || a.now.Add(leafMargin).After(leaf.NotAfter) {
		return false
	}
	for _, name := range a.names {
		if leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	return true
}

func (a *authority) template(name string, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    a.now.Add(-backdate),
		NotAfter:     a.now.Add(life),
	}, nil
}

// sign signs template for key by the authority and stores both as name.pem and name-key.pem. The key is written first:
// a crash in between leaves a pair that does not match and is made again.
func (a *authority) sign(name string, template *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := a.write(name+"-key.pem", 0o600, "PRIVATE KEY", keyDER); err != nil {
		return nil, err
	}
	if err := a.write(name+".pem", 0o644, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// write replaces a file at once or not at all.
func (a *authority) write(name string, mode fs.FileMode, kind string, der []byte) error {
	f, err := os.CreateTemp(a.dir, name+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once the file has its name
	err = errors.Join(
		f.Chmod(mode),
		pem.Encode(f, &pem.Block{Type: kind, Bytes: der}),
		f.Sync(),
		f.Close(),
	)
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), a.path(name))
}

// load reads name.pem and name-key.pem; fs.ErrNotExist when the certificate is not there.
func (a *authority) load(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certPEM, err := os.ReadFile(a.path(name + ".pem"))
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := os.ReadFile(a.path(name + "-key.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("%s has no key: %v", name+".pem", err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("%s or its key is not PEM", name+".pem")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name+".pem", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name+"-key.pem", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s and its key do not belong together", name+".pem")
	}
	return cert, ec, nil
}
