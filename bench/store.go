package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// enrolChunk is how many devices one transaction enrols.
const enrolChunk = 2000

// newStore makes a SQLite database in which the first `devices` devices of the fleet are enrolled; with a past, each of
// them has also connected once, reported, and gone. Databases are made once and copied for every server, so that each
// begins with the same one.
func (b *bench) newStore(ctx context.Context, devices int, past bool) (string, error) {
	key := fmt.Sprintf("store-%d-%t", devices, past)
	if b.stores[key] == "" {
		path := filepath.Join(b.dir, key+".db")
		b.progress("enrolling %d devices", devices)
		if err := fill(ctx, path, devices, past); err != nil {
			return "", fmt.Errorf("enrolling %d devices: %w", devices, err)
		}
		b.stores[key] = path
	}
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "devicecloud.db")
	return file, copyFile(file, b.stores[key])
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// What the copy leaves to be written must not be flushed at a server's expense.
	return errors.Join(err, out.Sync(), out.Close())
}

func fill(ctx context.Context, path string, devices int, past bool) (err error) {
	db, err := sqlstore.Open(ctx, "sqlite:"+path, sqlstore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store := db.Registry()
	nextID := registry.NewIDSource(time.Now)
	for from := 0; from < devices; from += enrolChunk {
		var logins []login
		err := store.InTx(ctx, func(tx registry.Tx) error {
			logins = logins[:0]
			for i := from; i < min(devices, from+enrolChunk); i++ {
				l, err := enrol(ctx, tx, deviceAt(i), nextID())
				if err != nil {
					return err
				}
				logins = append(logins, l)
			}
			return nil
		})
		if err == nil && past {
			err = liveOnce(ctx, store, logins, nextID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// login is an enrolled device and its credential.
type login struct{ deviceNo, credentialID int64 }

func enrol(ctx context.Context, tx registry.Tx, d device, credentialID int64) (login, error) {
	now := time.Now()
	no, err := tx.InsertDevice(ctx, registry.NewDevice{ID: d.id, MAC: d.mac, At: now})
	if err != nil {
		return login{}, err
	}
	sum := sha256.Sum256([]byte(d.secret))
	return login{no, credentialID}, tx.PutCredential(ctx, no, registry.Credential{
		ID: credentialID, Slot: 1, Kind: registry.CredentialSecret, Secret: sum[:], CreatedAt: now,
	})
}

// liveOnce gives devices a past: a connection that provisioned, reported and ended.
func liveOnce(ctx context.Context, store registry.Store, logins []login, nextID func() int64) error {
	epochs, err := claim(ctx, store, logins, nextID)
	if err != nil {
		return err
	}
	uptime, rssi := int64(3600), int64(-55)
	var reports, ends registry.Batch
	for i, l := range logins {
		reports.States = append(reports.States, &registry.StateWrite{
			DeviceNo: l.deviceNo, Epoch: epochs[i], At: time.Now(), Firmware: true,
			State: registry.State{Online: true, FirmwareVersion: "1.0.0", UptimeSec: &uptime, WifiRSSI: &rssi},
		})
		ends.Disconnects = append(ends.Disconnects, &registry.Disconnect{
			DeviceNo: l.deviceNo, Epoch: epochs[i], At: time.Now(), LastSeen: time.Now(), Reason: registry.ClientDisconnect,
		})
	}
	if err := store.Commit(ctx, &reports); err != nil {
		return err
	}
	err = store.InTx(ctx, func(tx registry.Tx) error {
		for i, l := range logins {
			if _, err := tx.SetProvisioned(ctx, l.deviceNo, epochs[i], "1.0.0", 0, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return store.Commit(ctx, &ends)
}

// claim takes an epoch for each device, as a connection does.
func claim(ctx context.Context, store registry.Store, logins []login, nextID func() int64) ([]int64, error) {
	var b registry.Batch
	for _, l := range logins {
		b.Claims = append(b.Claims, &registry.Claim{
			DeviceNo: l.deviceNo, CredentialID: l.credentialID, ConnectionID: nextID(), NodeID: "node-1", BootID: 1,
			Remote: "127.0.0.1", Protocol: 4, At: time.Now(),
		})
	}
	if err := store.Commit(ctx, &b); err != nil {
		return nil, err
	}
	var epochs []int64
	for _, c := range b.Claims {
		if c.Refused {
			return nil, fmt.Errorf("device %d may not connect", c.DeviceNo)
		}
		epochs = append(epochs, c.Row.Presence.Epoch)
	}
	return epochs, nil
}
