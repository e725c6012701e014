package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/opticworks/devicecloud"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/registry"
)

// operate opens the database for a command that works on it, beside a server that
// may be running on it.
func operate(c *app.Config, t terminal, f func(context.Context, *app.Operator) error) error {
	if err := c.PrepareStore(); err != nil {
		return usageError{err}
	}
	log, err := t.logger(c)
	if err != nil {
		return usageError{err}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := app.OpenOperator(ctx, *c, log)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, o), o.Close())
}

// operator is who acts when somebody works on the machine itself.
func operator() registry.Actor {
	a := registry.System()
	a.ClientType = "cli"
	return a
}

// print writes a value as JSON, or as the lines of text.
func (t terminal) print(asJSON bool, value any, lines ...string) error {
	if asJSON {
		e := json.NewEncoder(t.out)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	_, err := fmt.Fprintln(t.out, strings.Join(lines, "\n"))
	return err
}

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (cmd versionCmd) Run(t terminal) error {
	return t.print(cmd.JSON, map[string]string{"version": devicecloud.Version}, devicecloud.Version)
}

type adminCmd struct {
	Create        adminCreateCmd   `cmd:"" help:"Make an administrator. The password is ADMIN_PASSWORD, or the first line of standard input."`
	ResetPassword adminPasswordCmd `cmd:"" help:"Give a member of staff another password, from where create takes it, and end their sessions."`
	ResetTOTP     adminTOTPCmd     `cmd:"" name:"reset-totp" help:"Let a member of staff in without the authenticator that they have lost."`
}

// password is ADMIN_PASSWORD, or the first line of standard input.
func password(c *app.Config) (string, error) {
	if p := c.AdminPassword.Reveal(); p != "" {
		return p, nil
	}
	line, err := firstLine(os.Stdin)
	if err != nil {
		return "", fmt.Errorf("reading the password from standard input: %w", err)
	}
	return line, nil
}

type adminCreateCmd struct {
	Email string `arg:"" help:"E-mail address."`
	Role  string `enum:"admin,support" default:"admin" help:"admin or support."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

func (cmd adminCreateCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		password, err := password(c)
		if err != nil {
			return err
		}
		admin, err := o.CreateAdmin(ctx, cmd.Email, password, account.AdminRole(cmd.Role))
		if err != nil {
			return err
		}
		return t.print(cmd.JSON, map[string]string{"admin_id": admin.ID, "email": admin.Email, "role": string(admin.Role)},
			fmt.Sprintf("%s %s is administrator %s", admin.Role, admin.Email, admin.ID))
	})
}

type adminPasswordCmd struct {
	Email string `arg:"" help:"E-mail address."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

func (cmd adminPasswordCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		password, err := password(c)
		if err != nil {
			return err
		}
		m, err := o.SetPassword(ctx, operator(), cmd.Email, password)
		if err != nil {
			return err
		}
		return t.print(cmd.JSON, map[string]string{"admin_id": m.ID, "email": m.Email}, fmt.Sprintf("%s %s has the new password", m.Role, m.Email))
	})
}

type adminTOTPCmd struct {
	Email string `arg:"" help:"E-mail address."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

func (cmd adminTOTPCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		m, err := o.ResetTOTP(ctx, operator(), cmd.Email)
		if err != nil {
			return err
		}
		return t.print(cmd.JSON, map[string]string{"admin_id": m.ID, "email": m.Email}, fmt.Sprintf("%s %s signs in by password alone", m.Role, m.Email))
	})
}

func firstLine(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimRight(line, "\r"), nil
}

type deviceCmd struct {
	Enroll deviceEnrollCmd `cmd:"" help:"Enrol one device."`
	Import deviceImportCmd `cmd:"" help:"Enrol the devices of a CSV file."`
}

type deviceEnrollCmd struct {
	MAC             string `arg:"" name:"mac" help:"MAC address, AA:BB:CC:DD:EE:FF."`
	SecretHash      string `required:"" help:"SHA-256 of the device secret, 64 hex digits."`
	ClaimSecretHash string `help:"SHA-256 of the label's claim secret, 64 hex digits."`
	JSON            bool   `name:"json" help:"Print JSON."`
}

func (cmd deviceEnrollCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		d, err := o.Registry.Enroll(ctx, operator(), registry.EnrollRequest{
			MACAddress: cmd.MAC, DeviceSecretHash: cmd.SecretHash, ClaimSecretHash: cmd.ClaimSecretHash,
		})
		if err != nil {
			return err
		}
		return t.print(cmd.JSON, map[string]string{
			"device_id": d.ID, "mac_address": string(d.MAC), "enrolled_at": d.CreatedAt.Format(time.RFC3339Nano),
		}, d.ID)
	})
}

type deviceImportCmd struct {
	importFlags
}

func (cmd deviceImportCmd) Run(c *app.Config, t terminal) error {
	return cmd.run(c, t, func(ctx context.Context, o *app.Operator, csv io.Reader) (registry.ImportReport, error) {
		return o.Registry.ImportDevices(ctx, operator(), csv, cmd.Partial)
	})
}

type orderCmd struct {
	Import orderImportCmd `cmd:"" help:"Record the order lines of a CSV file."`
}

type orderImportCmd struct {
	importFlags
}

func (cmd orderImportCmd) Run(c *app.Config, t terminal) error {
	return cmd.run(c, t, func(ctx context.Context, o *app.Operator, csv io.Reader) (registry.ImportReport, error) {
		return o.Registry.ImportOrders(ctx, operator(), csv, cmd.Partial)
	})
}

// importFlags are the flags of every CSV import.
type importFlags struct {
	File    string `arg:"" type:"existingfile" help:"CSV file with a header line."`
	Partial bool   `help:"Import the good lines although others are bad."`
	JSON    bool   `name:"json" help:"Print JSON."`
}

// importedLine is one line of an import report in JSON.
type importedLine struct {
	Line    int    `json:"line"`
	ID      string `json:"id,omitempty"`
	Status  string `json:"status"`
	Error   string `json:"error,omitempty"`
	Message string `json:"message,omitempty"`
}

func (f importFlags) run(c *app.Config, t terminal, do func(context.Context, *app.Operator, io.Reader) (registry.ImportReport, error)) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		file, err := os.Open(f.File)
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // only read from
		report, err := do(ctx, o, file)
		if err != nil {
			return err
		}
		lines := make([]importedLine, 0, len(report.Lines))
		var text []string
		for _, l := range report.Lines {
			lines = append(lines, importedLine{l.Line, l.ID, l.Status, l.Code, l.Message})
			if l.Status == registry.LineError {
				text = append(text, fmt.Sprintf("line %d: %s (%s)", l.Line, l.Message, l.Code))
			}
		}
		text = append(text, fmt.Sprintf("%d created, %d there already, %d failed", report.Created, report.Existing, report.Failed))
		if !report.Applied {
			text = append(text, "nothing was written; --partial imports the good lines")
		}
		err = t.print(f.JSON, map[string]any{
			"created": report.Created, "existing": report.Existing, "failed": report.Failed,
			"applied": report.Applied, "lines": lines,
		}, text...)
		if err == nil && report.Failed > 0 {
			err = fmt.Errorf("%d lines failed", report.Failed)
		}
		return err
	})
}

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the schema up to date. The server does so when it starts."`
	Status migrateStatusCmd `cmd:"" help:"List the migrations and when each was applied."`
}

type migrateUpCmd struct{}

func (migrateUpCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(context.Context, *app.Operator) error { // opening migrates
		return t.print(false, nil, "the schema is up to date")
	})
}

type migrateStatusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// migrationLine is one migration in JSON.
type migrationLine struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // null: not yet
}

// Run fails when the schema is not this program's, so that a deployment can ask.
func (cmd migrateStatusCmd) Run(c *app.Config, t terminal) error {
	if err := c.PrepareStore(); err != nil {
		return usageError{err}
	}
	log, err := t.logger(c)
	if err != nil {
		return usageError{err}
	}
	migrations, err := app.MigrationStatus(context.Background(), *c, log)
	if err != nil {
		return err
	}
	out := make([]migrationLine, 0, len(migrations))
	var lines []string
	for _, m := range migrations {
		line, when := migrationLine{Version: m.Version, Name: m.Name}, "pending"
		if !m.AppliedAt.IsZero() {
			line.AppliedAt, when = &m.AppliedAt, "applied "+m.AppliedAt.Format(time.RFC3339)
		}
		out, lines = append(out, line), append(lines, m.Name+"  "+when)
	}
	return t.print(cmd.JSON, out, lines...)
}

type backupCmd struct {
	File string `arg:"" type:"path" help:"Where to write the copy; it must not exist."`
	JSON bool   `name:"json" help:"Print JSON."`
}

func (cmd backupCmd) Run(c *app.Config, t terminal) error {
	return operate(c, t, func(ctx context.Context, o *app.Operator) error {
		if err := o.Backup(ctx, cmd.File); err != nil {
			return err
		}
		info, err := os.Stat(cmd.File)
		if err != nil {
			return err
		}
		return t.print(cmd.JSON, map[string]any{"file": cmd.File, "bytes": info.Size()},
			fmt.Sprintf("%s: %d bytes", cmd.File, info.Size()))
	})
}

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Check the settings as serve does, and list them; secrets are not shown."`
}

type configCheckCmd struct {
	Dev  bool `help:"As serve --dev."`
	JSON bool `name:"json" help:"Print JSON."`
}

func (cmd configCheckCmd) Run(c *app.Config, t terminal) error {
	c.Dev = cmd.Dev
	if err := c.Prepare(); err != nil {
		return usageError{err}
	}
	log, err := t.logger(c)
	if err != nil {
		return usageError{err}
	}
	if err := c.CheckCertificates(log); err != nil {
		return usageError{err}
	}
	values := map[string]string{}
	var lines []string
	for _, s := range c.Settings() {
		values[s.Name] = s.Value
		lines = append(lines, s.Name+"="+s.Value)
	}
	return t.print(cmd.JSON, values, lines...)
}
