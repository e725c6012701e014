package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opticworks/devicecloud/account"
)

// FirstAdmin is the administrator that a start made because there was none.
type FirstAdmin struct {
	Email    string
	Password Secret
	Made     bool // just now, with a password that nobody knows yet
}

// FirstAdmin makes the administrator of ADMIN_EMAIL when there is no member of staff
// yet. In dev mode without that setting it makes one with a random password, which
// is kept nowhere: the caller shows it.
func (a *App) FirstAdmin(ctx context.Context) (FirstAdmin, error) {
	if a.config.AdminEmail != "" {
		created, err := a.accounts.EnsureAdmin(ctx, a.config.AdminEmail, a.config.AdminPassword.Reveal())
		if created {
			a.log.Info("made the first administrator", "email", a.config.AdminEmail)
		}
		return FirstAdmin{Email: a.config.AdminEmail, Password: a.config.AdminPassword}, err
	}
	if !a.config.Dev {
		return FirstAdmin{}, nil
	}
	first := FirstAdmin{Email: "admin@example.com", Password: randomPassword()}
	var err error
	first.Made, err = a.accounts.EnsureAdmin(ctx, first.Email, first.Password.Reveal())
	return first, err
}

// randomPassword has 130 random bits, in five groups that can be read aloud.
func randomPassword() Secret {
	text := strings.ToLower(rand.Text())
	var groups []string
	for len(text) > 0 {
		n := min(6, len(text))
		groups, text = append(groups, text[:n]), text[n:]
	}
	return Secret(strings.Join(groups, "-"))
}

// DemoAdmin is the administrator of the demonstration.
type DemoAdmin struct {
	Email    string
	Password Secret
	File     string // where the login is kept; "" when it comes from the settings
}

// demoAdminFile is the content of DATA_DIR/demo-admin.json, mode 0600.
type demoAdminFile struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

var errNotDev = errors.New("a demonstration needs dev mode")

// DemoAdmin is the administrator of ADMIN_EMAIL, made when there is none, or else
// one of the demonstration's own. Its login is kept in DATA_DIR, in dev mode only,
// so that the next demonstration on the same data can use it.
func (a *App) DemoAdmin(ctx context.Context) (DemoAdmin, error) {
	if !a.config.Dev {
		return DemoAdmin{}, errNotDev
	}
	if a.config.AdminEmail != "" {
		first, err := a.FirstAdmin(ctx)
		return DemoAdmin{Email: first.Email, Password: first.Password}, err
	}
	path := filepath.Join(a.config.DataDir, "demo-admin.json")
	kept, err := os.ReadFile(path)
	if err == nil {
		var f demoAdminFile
		if err := json.Unmarshal(kept, &f); err != nil || f.Email == "" || f.Password == "" {
			return DemoAdmin{}, fmt.Errorf("%s does not hold a login; delete it", path)
		}
		return DemoAdmin{Email: f.Email, Password: Secret(f.Password), File: path}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return DemoAdmin{}, err
	}
	d := DemoAdmin{Email: "admin@example.com", Password: randomPassword(), File: path}
	_, err = a.accounts.CreateAdmin(ctx, d.Email, d.Password.Reveal(), account.AdminRoleAdmin)
	if errors.Is(err, account.ErrEmailTaken) { // of `serve --dev`, with a password that nobody keeps
		d.Email = "demo-" + strings.ToLower(rand.Text()[:6]) + "@example.com"
		_, err = a.accounts.CreateAdmin(ctx, d.Email, d.Password.Reveal(), account.AdminRoleAdmin)
	}
	if err != nil {
		return DemoAdmin{}, err
	}
	text, err := json.MarshalIndent(demoAdminFile{d.Email, d.Password.Reveal()}, "", "  ")
	if err != nil {
		return DemoAdmin{}, err
	}
	return d, os.WriteFile(path, append(text, '\n'), 0o600)
}
