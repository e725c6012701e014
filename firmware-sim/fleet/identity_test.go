package fleet_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

func TestIdentity(t *testing.T) {
	t.Run("the same seed makes the same devices, another makes others", func(t *testing.T) {
		a, b, other := fleet.NewIdentity(1, 70_000, "s"), fleet.NewIdentity(1, 70_000, "s"), fleet.NewIdentity(2, 70_000, "s")
		if a != b || a.MAC == other.MAC || a.Secret == other.Secret || a.DeviceID == other.DeviceID {
			t.Errorf("%+v, %+v, %+v", a, b, other)
		}
		if a.MAC != "02:00:01:01:11:70" || len(a.Secret) != 64 || len(a.DeviceID) != 32 || len(a.ClaimSecret) != 32 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("the registry's hash is over the text that is sent", func(t *testing.T) {
		id := goldenDevice()
		if got := id.SecretHash(); got != "40b38be15e4da26a54f34bc85f19e9b47c9bdd6b9d45a66f50d1d17bcf1a3eed" {
			t.Errorf("got %s", got)
		}
		if got := string(id.Password(fleet.AuthSecret, time.Now())); got != id.Secret {
			t.Errorf("password %q", got)
		}
	})
	t.Run("an hmac password signs id and time", func(t *testing.T) {
		id := goldenDevice()
		now := time.Unix(1768471200, 0)
		parts := strings.Split(string(id.Password(fleet.AuthHMAC, now)), ".")
		if len(parts) != 3 || parts[0] != "v1" || parts[1] != "1768471200" {
			t.Fatalf("password %q", parts)
		}
		key := sha256.Sum256([]byte(id.Secret))
		raw, err := hex.DecodeString(id.DeviceID)
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, key[:])
		mac.Write(binary.LittleEndian.AppendUint32(raw, 1768471200))
		if parts[2] != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			t.Errorf("signature %q", parts[2])
		}
	})
	t.Run("a proof is the example of the contract", func(t *testing.T) {
		got := goldenDevice().Proof("bind:v1:a1b2c3d4e5f600112233445566778899:clm_01HZX8:0f1e2d3c4b5a69788796a5b4c3d2e1f0")
		if got != "5af8b2e8c9681abdcff45a7d9c844d6f36f43570ac62551e360910b9bd15b649" {
			t.Errorf("got %s", got)
		}
	})
}

func TestStateFile(t *testing.T) {
	load := func(t *testing.T, path string, n int, salt string) []fleet.Identity {
		t.Helper()
		ids, err := fleet.LoadIdentities(path, 7, n, salt)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	t.Run("a fleet is resumed, grows, and a smaller run keeps the rest", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "fleet.json")
		three := load(t, path, 3, "salt")
		five, err := fleet.LoadIdentities(path, 8, 5, "salt") // another seed: only the new ones are its
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(three, five[:3]); diff != "" {
			t.Error(diff)
		}
		if five[3] != fleet.NewIdentity(8, 3, "salt") {
			t.Errorf("the fourth is %+v", five[3])
		}
		load(t, path, 1, "salt")
		if diff := cmp.Diff(five, load(t, path, 5, "salt")); diff != "" {
			t.Error(diff)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("the example device follows from its MAC", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "fleet.json")
		text := `{"salt":"opticworks-rs1","devices":[{"mac_address":"AA:BB:CC:DD:EE:FF","device_id":"a81eaf01853585964842a74570b534f7","secret":"x"}]}`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		load(t, path, 1, "opticworks-rs1")
		if _, err := fleet.LoadIdentities(path, 1, 1, "another salt"); err == nil {
			t.Error("ids of another salt were taken")
		}
	})
	t.Run("a broken file is an error, not a new fleet", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "fleet.json")
		for _, text := range []string{"{", `{"devices":[{"mac_address":"x"}]}`} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := fleet.LoadIdentities(path, 1, 1, "s"); err == nil {
				t.Errorf("%s was taken", text)
			}
		}
	})
}
