package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// MAC is a device's hardware address in its stored form, "AA:BB:CC:DD:EE:FF".
type MAC string

// ParseMAC reads a MAC address: 12 hex digits in any letter case, bare or with
// ":" or "-" between all pairs.
func ParseMAC(s string) (MAC, error) {
	var digits string
	switch len(s) {
	case 12:
		digits = s
	case 17:
		sep := s[2]
		if sep != ':' && sep != '-' {
			return "", errBadMAC
		}
		for i := 0; i < len(s); i++ {
			if i%3 != 2 {
				digits += s[i : i+1]
			} else if s[i] != sep {
				return "", errBadMAC
			}
		}
	default:
		return "", errBadMAC
	}
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return "", errBadMAC
	}
	var b strings.Builder
	for i, x := range raw {
		if i > 0 {
			b.WriteByte(':')
		}
		const hexDigits = "0123456789ABCDEF"
		b.WriteByte(hexDigits[x>>4])
		b.WriteByte(hexDigits[x&15])
	}
	return MAC(b.String()), nil
}

var errBadMAC = E(Invalid, "invalid_mac_address", "mac_address must be six hex pairs, like AA:BB:CC:DD:EE:FF.")

// DeviceID derives the device id: the first 32 hex digits of SHA-256 over the
// lower-case MAC digits and the salt. It is guessable and never a credential.
// [seed 003 3.1]
func (m MAC) DeviceID(salt string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.ReplaceAll(string(m), ":", "")) + salt))
	return hex.EncodeToString(sum[:16])
}

// Device is a device's row, with its presence and latest state.
type Device struct {
	No              int64
	ID              string
	MAC             MAC // "" for a self-enrolled device that never provisioned
	Name            string
	FirmwareVersion string
	Hardware        string // what it is built as; "" when nobody has said
	SelfEnrolled    bool
	EverOwned       bool
	DisabledAt      time.Time // zero: enabled
	FirstSeen       time.Time
	ProvisionedAt   time.Time
	CreatedAt       time.Time
	UpdatedAt       time.Time
	MaxPacket       int // the largest packet that it takes, in bytes, as its firmware said; 0: it did not
	Presence        Presence
	State           State // the latest report; its FirmwareVersion is not filled, see above
	ReportedAt      time.Time
}

// OwnedDevice is a device as one person sees it.
type OwnedDevice struct {
	Device
	Role Role
}

// AdminDevice is a device as staff see it in a list.
type AdminDevice struct {
	Device
	OwnerID    string
	OwnerEmail string
}

// DeviceFilter narrows the list of all devices. Zero fields do not narrow.
type DeviceFilter struct {
	Status  *Status
	Version string // firmware version, exact
	Owner   string // user id or e-mail of the owner, exact
	Query   string // part of id, MAC, name or owner's e-mail, any letter case
	After   int64  // device_no: the cursor of the page before
	Offset  int    // rows to skip, for numbered pages
	Limit   int
}

// NewDevice is what enrolment writes.
type NewDevice struct {
	ID              string
	MAC             MAC
	ClaimSecretHash []byte
	Hardware        string // "" when the factory does not say
	SelfEnrolled    bool
	At              time.Time
}
