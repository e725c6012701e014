package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command runs a command of the program on the cloud's data, as an operator does.
func (c *Cloud) command(args ...string) string {
	c.t.Helper()
	cmd := exec.Command(Binary(c.t, "devicecloud"), args...)
	cmd.Env = environ(map[string]string{"DATA_DIR": c.DataDir()})
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("devicecloud %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func TestCommandsBesideARunningServer(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Process: true})
	admin := c.AdminToken()

	d := NewDevice()
	hash := sha256.Sum256([]byte(d.Secret))
	if id := c.command("device", "enroll", d.MAC, "--secret-hash", hex.EncodeToString(hash[:])); id != d.ID {
		t.Fatalf("enrolled %q, want %s", id, d.ID)
	}
	device := c.Connect(d)
	if err := Report(device, d, 11); err != nil {
		t.Fatal(err)
	}
	var trail struct {
		Events []struct {
			Event string `json:"event"`
			By    string `json:"by"`
		} `json:"events"`
	}
	c.Get("/admin/devices/"+d.ID+"/audit", admin, &trail)
	if n := len(trail.Events); n == 0 || trail.Events[n-1].Event != "enrolled" || trail.Events[n-1].By != "system" {
		t.Errorf("the audit trail is %+v", trail)
	}

	t.Run("a backup of the running server restores", func(t *testing.T) {
		c := c.For(t)
		file := filepath.Join(t.TempDir(), "backup.db")
		c.command("backup", file)
		if err := Report(device, d, 12); err != nil {
			t.Errorf("after the backup: %v", err)
		}
		restored := Start(t, Options{Env: map[string]string{"DATABASE_URL": "sqlite:" + file}})
		if v := restored.Look(d, restored.AdminToken()); v.UptimeSec == nil || *v.UptimeSec != 11 {
			t.Errorf("the restored registry has %+v", v)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("the copy may be read by others: %v, %v", info, err)
		}
	})
}
