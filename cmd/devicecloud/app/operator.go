package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/topic"
)

// Operator is the domains on the database alone, without a listener: what commands
// work with while a server may run on the same database.
type Operator struct {
	Registry *registry.Registry
	db       *sqlstore.DB
	accounts *account.Service
}

// OpenOperator opens the database of c, which [Config.PrepareStore] has prepared.
func OpenOperator(ctx context.Context, c Config, log *slog.Logger) (*Operator, error) {
	if err := c.makeDataDir(); err != nil {
		return nil, err
	}
	db, err := sqlstore.Open(ctx, c.DatabaseURL.Reveal(), sqlstore.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	options, err := c.registryOptions(log)
	if err != nil {
		return nil, closeAll(err, db.Close)
	}
	reg := registry.New(db.Registry(), nobodyConnected{}, options)
	// The key signs nothing here: no command issues a token.
	key, _, err := account.NewSigningKey()
	if err != nil {
		reg.Close()
		return nil, closeAll(err, db.Close)
	}
	accounts, err := account.New(db.Accounts(), reg, account.Options{SigningKey: key, NextID: options.NextID, Sealer: options.Sealer, Logger: log})
	if err != nil {
		reg.Close()
		return nil, closeAll(err, db.Close)
	}
	return &Operator{Registry: reg, db: db, accounts: accounts}, nil
}

// CreateAdmin makes a member of staff; errors as account.Service.CreateAdmin.
func (o *Operator) CreateAdmin(ctx context.Context, email, password string, role account.AdminRole) (account.Admin, error) {
	return o.accounts.CreateAdmin(ctx, email, password, role)
}

// SetPassword gives a member of staff another password, and ends their sessions;
// errors as account.Service.SetPassword.
func (o *Operator) SetPassword(ctx context.Context, a registry.Actor, email, password string) (account.Admin, error) {
	m, err := o.accounts.StaffByEmail(ctx, a, email)
	if err == nil {
		err = o.accounts.SetPassword(ctx, a, m.ID, password)
	}
	return m, err
}

// ResetTOTP takes the authenticator from a member of staff who has lost it; errors as
// account.Service.ResetTOTP.
func (o *Operator) ResetTOTP(ctx context.Context, a registry.Actor, email string) (account.Admin, error) {
	m, err := o.accounts.StaffByEmail(ctx, a, email)
	if err == nil {
		err = o.accounts.ResetTOTP(ctx, a, m.ID)
	}
	return m, err
}

// Backup writes a consistent copy of a SQLite database to a file that must not
// exist yet.
func (o *Operator) Backup(ctx context.Context, file string) error { return o.db.Backup(ctx, file) }

// Close commits what waits and closes the database.
func (o *Operator) Close() error {
	o.Registry.Close()
	return o.db.Close()
}

// nobodyConnected is the courier of a process without a broker: no device has a
// session here.
type nobodyConnected struct{}

var _ registry.Courier = nobodyConnected{}

func (nobodyConnected) Deliver(string, topic.Kind, []byte) error { return registry.ErrOffline }
func (nobodyConnected) Announce(string, topic.Kind, []byte)      {}
func (nobodyConnected) Watched() bool                            { return false }
func (nobodyConnected) Disconnect(string, registry.Reason) bool  { return false }
func (nobodyConnected) ExpireSession(string, int64, time.Time)   {}
func (nobodyConnected) DeliverCommand(string, int64, registry.CommandDelivery) error {
	return registry.ErrOffline
}
func (nobodyConnected) AccessChanged(string)      {}
func (nobodyConnected) Sessions() []registry.Live { return nil }

// MigrationStatus lists the schema's migrations without changing anything. It fails
// when the schema is not this program's.
func MigrationStatus(ctx context.Context, c Config, log *slog.Logger) ([]sqlstore.Migration, error) {
	db, err := sqlstore.Open(ctx, c.DatabaseURL.Reveal(), sqlstore.Options{Logger: log, NoMigrate: true})
	if err != nil {
		return nil, err
	}
	list, err := db.MigrationStatus(ctx)
	return list, closeAll(err, db.Close)
}
