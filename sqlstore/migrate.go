package sqlstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is one step of the schema.
type Migration struct {
	Version   int64
	Name      string    // the file's name
	AppliedAt time.Time // zero: pending
}

// Migrate brings the schema up to date. It refuses a schema that is newer than
// this program.
func (db *DB) Migrate(ctx context.Context) error {
	return db.withMigrations(ctx, func(p *goose.Provider) error {
		current, target, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		if current > target {
			return aheadError(current, target)
		}
		results, err := p.Up(ctx)
		for _, r := range results {
			db.log.InfoContext(ctx, "migrated the database", "migration", path.Base(r.Source.Path), "took", r.Duration)
		}
		return err
	})
}

// MigrationStatus lists the migrations that this program knows, oldest first.
func (db *DB) MigrationStatus(ctx context.Context) ([]Migration, error) {
	var list []Migration
	err := db.withMigrations(ctx, func(p *goose.Provider) error {
		status, err := p.Status(ctx)
		for _, s := range status {
			list = append(list, Migration{Version: s.Source.Version, Name: path.Base(s.Source.Path), AppliedAt: s.AppliedAt.UTC()})
		}
		return err
	})
	return list, err
}

// requireCurrent refuses a schema that is not exactly this program's.
func (db *DB) requireCurrent(ctx context.Context) error {
	return db.withMigrations(ctx, func(p *goose.Provider) error {
		current, target, err := p.GetVersions(ctx)
		switch {
		case err != nil:
			return err
		case current > target:
			return aheadError(current, target)
		case current < target:
			return fmt.Errorf("the schema is at version %d, behind this program's %d: run \"devicecloud migrate up\"", current, target)
		}
		return nil
	})
}

func aheadError(current, target int64) error {
	return fmt.Errorf("the schema is at version %d, newer than this program's %d: run a newer program", current, target)
}

func (db *DB) withMigrations(ctx context.Context, f func(*goose.Provider) error) error {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	p, closeProvider, err := db.engine.migrations(ctx, db.write, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrations: %w", db.engine.wrap(err))
	}
	if err := errors.Join(f(p), closeProvider()); err != nil {
		return fmt.Errorf("migrations: %w", db.engine.wrap(err))
	}
	return nil
}

// Backup writes a consistent copy of a SQLite database into a file that must not
// exist yet; the program keeps running. A PostgreSQL database is backed up with
// its own tools, and the error says so.
func (db *DB) Backup(ctx context.Context, file string) error {
	if err := db.engine.backup(ctx, file); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}
