package fleet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Identity is what the factory burns into a device.
type Identity struct {
	MAC         string `json:"mac_address"` // AA:BB:CC:DD:EE:FF
	DeviceID    string `json:"device_id"`
	Secret      string `json:"secret"`       // 64 hex digits, sent as text
	ClaimSecret string `json:"claim_secret"` // 32 hex digits, on the label
}

// Auth is how a device proves who it is.
type Auth string

// The credential kinds that need no certificate.
const (
	AuthSecret Auth = "secret" // the password is the secret itself
	AuthHMAC   Auth = "hmac"   // the password is a signature over id and time
)

// maxDevices is how many indexes the three last bytes of a MAC can tell apart.
const maxDevices = 1 << 24

// NewIdentity makes the same device from the same seed and index every time, so that a fleet needs no memory of its
// own. The MAC is locally administered (02:...), then two bytes of seed and three of index.
func NewIdentity(seed uint16, index int, salt string) Identity {
	raw := net.HardwareAddr{0x02, byte(seed >> 8), byte(seed), byte(index >> 16), byte(index >> 8), byte(index)}
	mac := strings.ToUpper(raw.String())
	secret := sha256.Sum256(fmt.Appendf(nil, "device secret %d %d", seed, index))
	claim := sha256.Sum256(fmt.Appendf(nil, "claim secret %d %d", seed, index))
	return Identity{
		MAC:         mac,
		DeviceID:    deriveDeviceID(raw, salt),
		Secret:      hex.EncodeToString(secret[:]),
		ClaimSecret: hex.EncodeToString(claim[:16]),
	}
}

// deriveDeviceID is the first 32 hex digits of SHA-256 over the MAC's lower-case hex and the salt [seed 003 3.1].
func deriveDeviceID(mac net.HardwareAddr, salt string) string {
	sum := sha256.Sum256([]byte(hex.EncodeToString(mac) + salt))
	return hex.EncodeToString(sum[:16])
}

// SecretHash is what the registry stores: SHA-256 of the password's bytes as they are sent.
func (id Identity) SecretHash() string { return hexSHA256(id.Secret) }

// ClaimSecretHash is what the registry stores of the label's secret.
func (id Identity) ClaimSecretHash() string { return hexSHA256(id.ClaimSecret) }

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Password is what goes into the CONNECT at that time.
func (id Identity) Password(auth Auth, now time.Time) []byte {
	if auth != AuthHMAC {
		return []byte(id.Secret)
	}
	rawID, err := hex.DecodeString(id.DeviceID)
	if err != nil {
		// Identities are checked when they are made or loaded; a broken one just fails to authenticate.
		rawID = nil
	}
	stamp := uint32(now.Unix())
	mac := id.sign(binary.LittleEndian.AppendUint32(rawID, stamp))
	return fmt.Appendf(nil, "v1.%d.%s", stamp, base64.StdEncoding.EncodeToString(mac))
}

// Proof signs a statement of possession: hex HMAC-SHA256 with the device's key.
func (id Identity) Proof(statement string) string {
	return hex.EncodeToString(id.sign([]byte(statement)))
}

// sign uses the key that device and registry share: the hash of the secret.
func (id Identity) sign(message []byte) []byte {
	key := sha256.Sum256([]byte(id.Secret))
	mac := hmac.New(sha256.New, key[:])
	mac.Write(message)
	return mac.Sum(nil)
}

// stateFile is the --state file.
type stateFile struct {
	Salt    string     `json:"salt"`
	Devices []Identity `json:"devices"`
}

// LoadIdentities returns n identities. With a path it takes those that the file has, makes the missing ones from seed
// and index, and writes the file back, readable by its owner only because it holds the secrets.
func LoadIdentities(path string, seed uint16, n int, salt string) ([]Identity, error) {
	var kept []Identity
	if path != "" {
		var err error
		kept, err = readStateFile(path, salt)
		if err != nil {
			return nil, fmt.Errorf("state file %s: %w", path, err)
		}
	}
	ids := append(make([]Identity, 0, n), kept[:min(n, len(kept))]...)
	for i := len(ids); i < n; i++ {
		ids = append(ids, NewIdentity(seed, i, salt))
	}
	if path != "" && n > len(kept) {
		if err := writeStateFile(path, stateFile{Salt: salt, Devices: ids}); err != nil {
			return nil, fmt.Errorf("state file %s: %w", path, err)
		}
	}
	return ids, nil
}

func readStateFile(path, salt string) ([]Identity, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var file stateFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	for i, id := range file.Devices {
		mac, err := net.ParseMAC(id.MAC)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i, err)
		}
		if deriveDeviceID(mac, salt) != id.DeviceID {
			return nil, fmt.Errorf("device %d: %s does not follow from its MAC with salt %q", i, id.DeviceID, salt)
		}
	}
	return file.Devices, nil
}

func writeStateFile(path string, file stateFile) error {
	raw, err := json.MarshalIndent(file, "", " ")
	if err != nil {
		return err
	}
	// Written beside and renamed, so that an interrupted run leaves the old file.
	temp, err := os.CreateTemp(filepath.Dir(path), ".firmware-sim-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(append(raw, '\n'))
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// nonce writes a random number as 16 hex digits.
func nonce(n uint64) string { return fmt.Sprintf("%016x", n) }
