package registry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// CredentialKind says how a credential is proven.
type CredentialKind string

// The kinds of credentials.
const (
	CredentialSecret CredentialKind = "secret" // the factory secret as password; an hmac password proves it too
	CredentialHMAC   CredentialKind = "hmac"   // only ever proven by HMAC: the secret never travels
	CredentialX509   CredentialKind = "x509"   // a client certificate, by fingerprint
)

// Digest is a SHA-256 that is worth a password. It redacts itself in every
// format; only stores and comparisons read its bytes.
type Digest []byte

const redacted = "[redacted]"

// String redacts.
func (Digest) String() string { return redacted }

// Format redacts, for every verb; a String method alone would not for %d.
func (Digest) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON redacts.
func (Digest) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// parseDigest reads the 64 hex digits of a SHA-256.
func parseDigest(field, s string) (Digest, error) {
	d, err := hex.DecodeString(s)
	if err != nil || len(d) != sha256.Size {
		return nil, E(Invalid, ErrInvalidRequest.Code, field+" must be a SHA-256 of 64 hex digits.")
	}
	return d, nil
}

// Credential is one of a device's at most two live credentials.
type Credential struct {
	ID        int64
	Slot      int // 1 or 2
	Kind      CredentialKind
	Secret    Digest // possibly sealed, see Sealer
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

func (c Credential) liveAt(t time.Time) bool { return c.ExpiresAt.IsZero() || t.Before(c.ExpiresAt) }

// CredentialMeta is what staff may see of a credential.
type CredentialMeta struct {
	ID        int64
	Kind      CredentialKind
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Credentialed is what CONNECT needs to know of a device, in one read.
type Credentialed struct {
	DeviceNo        int64
	DeviceID        string
	Disabled        bool
	FirmwareVersion string
	Credentials     []Credential
}

// Login is what a device presents at CONNECT.
type Login struct {
	DeviceID    string // user name and client id
	Password    []byte // exactly as sent
	HasPassword bool
	Certificate *x509.Certificate // of the TLS client; nil without one
	ByCA        bool              // its chain was verified against the device CA
}

// Identity is a device that has proven itself.
type Identity struct {
	DeviceNo     int64
	DeviceID     string
	CredentialID int64     // 0: by a certificate of the device CA
	ExpiresAt    time.Time // of the credential; zero: never
	firmware     string
	enrolling    Digest // the first password of a device that enrols itself
}

// hmacWindow is how far a device's clock may be off in an hmac password.
const hmacWindow = 10 * time.Minute

// Authenticate checks a device's credential with one read and no write. An unknown
// device, a wrong credential and a disabled device are all ErrBadCredential, and
// cost alike. ErrUnavailable when the registry cannot be read.
func (r *Registry) Authenticate(ctx context.Context, l Login) (Identity, error) {
	if !topic.ValidDeviceID(l.DeviceID) {
		return Identity{}, ErrBadCredential
	}
	var c Credentialed
	err := r.store.View(ctx, func(tx Tx) (err error) {
		c, err = tx.Credentialed(ctx, l.DeviceID)
		return err
	})
	unknown := errors.Is(err, ErrDeviceNotFound)
	if err != nil && !unknown {
		return Identity{}, err
	}
	id, err := r.prove(c, l)
	switch {
	case unknown && r.opts.SelfEnroll && l.HasPassword && len(l.Password) >= minSelfEnrollSecret && l.Certificate == nil:
		sum := sha256.Sum256(l.Password)
		return Identity{DeviceID: l.DeviceID, enrolling: sum[:]}, nil
	case err != nil:
		return Identity{}, err
	case unknown || c.Disabled:
		return Identity{}, ErrBadCredential
	}
	id.DeviceNo, id.DeviceID, id.firmware = c.DeviceNo, c.DeviceID, c.FirmwareVersion
	return id, nil
}

// minSelfEnrollSecret is the shortest first password that becomes a secret, in
// bytes: 16 random bytes as hex.
const minSelfEnrollSecret = 32

// prove compares what was presented with each live credential, in constant time
// and always with two, so that neither their number nor a device's existence shows.
func (r *Registry) prove(c Credentialed, l Login) (Identity, error) {
	now := r.now()
	var none [2]Credential
	creds := append(c.Credentials, none[:]...)[:2]
	var fingerprint [sha256.Size]byte
	certificate := l.Certificate != nil
	if certificate {
		if l.Certificate.Subject.CommonName != l.DeviceID || now.Before(l.Certificate.NotBefore) || now.After(l.Certificate.NotAfter) {
			return Identity{}, ErrBadCredential
		}
		fingerprint = sha256.Sum256(l.Certificate.Raw)
	}
	password := sha256.Sum256(l.Password)
	stamp, mac, isHMAC := parseHMAC(string(l.Password))
	if d := now.Sub(stamp); d > hmacWindow || d < -hmacWindow {
		isHMAC = false
	}
	var found Identity
	ok := false
	for _, cred := range creds {
		secret, err := r.opts.Sealer.open(c.DeviceID, cred.Secret)
		if cred.ID == 0 {
			secret, err = make(Digest, sha256.Size), nil
		}
		if err != nil {
			return Identity{}, E(Internal, "credential_sealed", "The credential cannot be read.").With(err)
		}
		match := 0
		switch cred.Kind {
		case CredentialX509:
			if certificate {
				match = subtle.ConstantTimeCompare(fingerprint[:], secret)
			}
		default: // also the stand-in of a missing one
			match = subtle.ConstantTimeCompare(password[:], secret)
			if cred.Kind == CredentialHMAC || !l.HasPassword {
				match = 0
			}
			if isHMAC {
				match |= subtle.ConstantTimeCompare(mac, hmacOf(secret, l.DeviceID, stamp))
			}
		}
		if match == 1 && cred.ID != 0 && cred.liveAt(now) {
			found, ok = Identity{CredentialID: cred.ID, ExpiresAt: cred.ExpiresAt}, true
		}
	}
	switch {
	case ok:
		return found, nil
	case certificate && l.ByCA:
		return Identity{ExpiresAt: l.Certificate.NotAfter}, nil
	}
	return Identity{}, ErrBadCredential
}

// parseHMAC reads "v1.<unix seconds>.<base64 of 32 bytes>".
func parseHMAC(password string) (stamp time.Time, mac []byte, ok bool) {
	rest, ok := strings.CutPrefix(password, "v1.")
	if !ok || len(rest) > 64 {
		return time.Time{}, nil, false
	}
	seconds, text, ok := strings.Cut(rest, ".")
	if !ok {
		return time.Time{}, nil, false
	}
	n, err := strconv.ParseUint(seconds, 10, 32)
	if err != nil {
		return time.Time{}, nil, false
	}
	mac, err = base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(mac) != sha256.Size || len(text) != base64.StdEncoding.EncodedLen(sha256.Size) {
		return time.Time{}, nil, false
	}
	return time.Unix(int64(n), 0), mac, true
}

// hmacOf is HMAC-SHA256(key, raw device id || little-endian u32 seconds).
func hmacOf(key Digest, deviceID string, stamp time.Time) []byte {
	raw, _ := hex.DecodeString(deviceID) // the caller has checked its form
	h := hmac.New(sha256.New, key)
	h.Write(raw)
	var ts [4]byte
	binary.LittleEndian.PutUint32(ts[:], uint32(stamp.Unix()))
	h.Write(ts[:])
	return h.Sum(nil)
}

// CredentialRequest is a new credential, as staff set it.
type CredentialRequest struct {
	Kind           string        // secret, hmac or x509
	SecretHash     string        // secret, hmac: 64 hex
	CertificatePEM string        // x509: one certificate, its CN the device id
	RetireOldAfter time.Duration // how long the other credentials stay valid; at most 90 days
}

// maxRetireAfter bounds how long an old credential may outlive its rotation.
const maxRetireAfter = 90 * 24 * time.Hour

// AddCredential gives a device a new credential and retires those it has, at once
// or after a time; of two others the older is replaced. Sessions of a retired
// credential end when it does. Errors: Invalid, ErrDeviceNotFound, Forbidden.
func (r *Registry) AddCredential(ctx context.Context, a Actor, id string, req CredentialRequest) (CredentialMeta, error) {
	if err := staffOnly(a, ActorAdmin); err != nil {
		return CredentialMeta{}, err
	}
	cred, err := req.credential(id, r.now())
	if err != nil {
		return CredentialMeta{}, err
	}
	cred.ID = r.opts.NextID()
	cred.Secret = r.opts.Sealer.seal(id, cred.Secret)
	end := cred.CreatedAt.Add(req.RetireOldAfter)
	var retired []Credential
	err = r.write(ctx, func(tx Tx) error {
		retired = retired[:0]
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		old, err := tx.Credentials(ctx, d.No)
		if err != nil {
			return err
		}
		cred.Slot = freeSlot(old)
		for _, o := range old {
			if o.Slot != cred.Slot && o.liveAt(end) {
				if err := tx.ExpireCredential(ctx, o.ID, end); err != nil {
					return err
				}
			}
		}
		retired = append(retired, old...)
		if err := tx.PutCredential(ctx, d.No, cred); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "credential_added", map[string]any{"kind": string(cred.Kind), "retire_old_at": end.Format(time.RFC3339)})
	})
	if err != nil {
		return CredentialMeta{}, err
	}
	for _, o := range retired {
		at := end
		if o.Slot == cred.Slot {
			at = cred.CreatedAt // replaced: gone at once
		}
		r.courier.ExpireSession(id, o.ID, at)
	}
	return CredentialMeta{cred.ID, cred.Kind, cred.CreatedAt, cred.ExpiresAt}, nil
}

// freeSlot is the slot for a new credential: an empty one, else the older one's.
func freeSlot(old []Credential) int {
	switch {
	case len(old) == 0:
		return 1
	case len(old) == 1:
		return 3 - old[0].Slot
	case old[1].CreatedAt.Before(old[0].CreatedAt):
		return old[1].Slot
	}
	return old[0].Slot
}

func (req CredentialRequest) credential(deviceID string, now time.Time) (Credential, error) {
	c := Credential{Kind: CredentialKind(req.Kind), CreatedAt: now}
	if req.RetireOldAfter < 0 || req.RetireOldAfter > maxRetireAfter {
		return c, E(Invalid, ErrInvalidRequest.Code, "retire_old_after_sec must be from 0 to 7776000.")
	}
	switch c.Kind {
	case CredentialSecret, CredentialHMAC:
		d, err := parseDigest("secret_hash", req.SecretHash)
		c.Secret = d
		return c, err
	case CredentialX509:
		block, rest := pem.Decode([]byte(req.CertificatePEM))
		if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) > 0 {
			return c, E(Invalid, ErrInvalidRequest.Code, "certificate_pem must hold one certificate.")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return c, E(Invalid, ErrInvalidRequest.Code, "certificate_pem does not hold a valid certificate.").With(err)
		case cert.Subject.CommonName != deviceID:
			return c, E(Invalid, ErrInvalidRequest.Code, "The certificate's common name must be the device id.")
		case now.After(cert.NotAfter):
			return c, E(Invalid, ErrInvalidRequest.Code, "The certificate has expired.")
		}
		sum := sha256.Sum256(cert.Raw)
		c.Secret, c.ExpiresAt = sum[:], cert.NotAfter
		return c, nil
	}
	return c, E(Invalid, ErrInvalidRequest.Code, "kind must be secret, hmac or x509.")
}
