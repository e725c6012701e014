package sqlstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestPairings(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		s.user("u1", "a@example.com")
		s.user("u2", "b@example.com")
		insert := func(id, user string, device int64, at int) (put bool) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				put, err = tx.InsertPairing(ctx, registry.Pairing{
					ID: id, UserID: user, Via: "button", Hash: []byte("hash of " + id), DeviceNo: device, CreatedAt: after(at), ExpiresAt: after(at + 10),
				}, 2)
				return err
			})
			return put
		}
		t.Run("wait, at most as many of a person as may", func(t *testing.T) {
			equal(t, "put", []bool{
				insert("c1", "u1", no, 0), insert("c2", "u1", 0, 0), insert("c3", "u1", 0, 9), insert("c4", "u2", 0, 9), insert("c5", "u1", 0, 10),
			}, []bool{true, true, false, true, true})
		})
		t.Run("are read by id and by hash", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				p, err := tx.Pairing(ctx, "c1")
				equal(t, "by id", p, registry.Pairing{
					ID: "c1", UserID: "u1", Via: "button", Hash: []byte("hash of c1"), DeviceNo: no, DeviceID: deviceID(1),
					Status: registry.ClaimPending, CreatedAt: t0, ExpiresAt: after(10),
				})
				if err != nil {
					return err
				}
				p, err = tx.PairingByHash(ctx, []byte("hash of c2"))
				equal(t, "by hash", fmt.Sprint(p.ID, p.DeviceNo, p.DeviceID), "c20")
				if err != nil {
					return err
				}
				_, err = tx.Pairing(ctx, "c3")
				is(t, "absent", err, registry.ErrClaimNotFound)
				_, err = tx.PairingByHash(ctx, []byte("c1"))
				is(t, "another hash", err, registry.ErrClaimNotFound)
				return nil
			})
		})
		t.Run("are settled once", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, want := range []bool{true, false} {
					changed, err := tx.SettlePairing(ctx, "c2", registry.ClaimRejected, no, "already_owned")
					equal(t, "settle", []any{changed, err}, []any{want, nil})
				}
				p, err := tx.Pairing(ctx, "c2")
				equal(t, "settled", fmt.Sprint(p.Status, " ", p.Error, " ", p.DeviceID), "rejected already_owned "+deviceID(1))
				return err
			})
		})
		t.Run("go with their device, their person, and time", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for id, at := range map[int64]int{1: 0, 2: 60} {
					if err := tx.InsertTry(ctx, id, "user:u1", after(at)); err != nil {
						return err
					}
				}
				n, oldest, err := tx.CountTries(ctx, "user:u1", t0.Add(-time.Second))
				equal(t, "tries", []any{n, oldest, err}, []any{2, t0, nil})
				n, oldest, err = tx.CountTries(ctx, "user:u1", t0)
				equal(t, "later", []any{n, oldest, err}, []any{1, after(60), nil})
				n, oldest, err = tx.CountTries(ctx, "user:u2", t0.Add(-time.Second))
				equal(t, "nobody's", []any{n, oldest, err}, []any{0, time.Time{}, nil})
				if err := tx.DeletePairings(ctx, no); err != nil {
					return err
				}
				if err := tx.EraseUser(ctx, "u2", "b@example.com", t0); err != nil {
					return err
				}
				deleted, err := tx.DeleteClaims(ctx, after(30), 10)
				equal(t, "over", []any{deleted, err}, []any{2, nil}) // c5 and the first try
				_, err = tx.Pairing(ctx, "c4")
				is(t, "of an erased person", err, registry.ErrClaimNotFound)
				return nil
			})
		})
		t.Run("a label's secret is known by its hash, if at all", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				labelled, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(2), MAC: mac(2), ClaimSecretHash: []byte("h"), At: t0})
				if err != nil {
					return err
				}
				for device, want := range map[int64]string{labelled: "h", no: "", 99: ""} {
					hash, err := tx.ClaimSecretHash(ctx, device)
					equal(t, "hash", []any{string(hash), err}, []any{want, nil})
				}
				return nil
			})
		})
	})
}
