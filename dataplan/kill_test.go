package dataplan_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// What a child of this test binary is told: the database, the report that it takes, and
// where in its transaction it stops for good.
const (
	childURL   = "DATAPLAN_TEST_CHILD_URL"
	childEvent = "DATAPLAN_TEST_CHILD_EVENT"
	childStop  = "DATAPLAN_TEST_CHILD_STOP"
)

// The places where a child stops.
const (
	stopRemembered = "the report is remembered"
	stopMoved      = "the purchase has moved"
	stopWritten    = "all is written but the commit"
	stopCommitted  = "it is committed, and not answered"
)

// stuck says where the child is, and stays there until it is killed.
func stuck(where string) {
	if os.Getenv(childStop) == where {
		fmt.Println("stuck")
		time.Sleep(time.Minute) // nobody kills it: its parent is gone
		os.Exit(1)
	}
}

// stuckStore is a store whose transactions stop.
type stuckStore struct{ dataplan.Store }

func (s stuckStore) InTx(ctx context.Context, f func(dataplan.Tx) error) error {
	err := s.Store.InTx(ctx, func(tx dataplan.Tx) error {
		err := f(stuckTx{tx})
		stuck(stopWritten)
		return err
	})
	stuck(stopCommitted)
	return err
}

type stuckTx struct{ dataplan.Tx }

func (t stuckTx) InsertStripeEvent(ctx context.Context, e dataplan.EventRecord) (bool, error) {
	fresh, err := t.Tx.InsertStripeEvent(ctx, e)
	stuck(stopRemembered)
	return fresh, err
}

func (t stuckTx) UpdatePurchase(ctx context.Context, p dataplan.Purchase) (bool, error) {
	changed, err := t.Tx.UpdatePurchase(ctx, p)
	stuck(stopMoved)
	return changed, err
}

// child takes a report and stops on the way. It ends by a signal, or by a failure.
func child() {
	var e dataplan.Event
	err := json.Unmarshal([]byte(os.Getenv(childEvent)), &e)
	if err == nil {
		var db *sqlstore.DB
		if db, err = sqlstore.Open(context.Background(), os.Getenv(childURL), sqlstore.Options{NoMigrate: true}); err == nil {
			s := dataplan.New(stuckStore{db.DataPlans()}, gate{}, dataplan.Options{Now: func() time.Time { return t0 }, Logger: slog.New(slog.DiscardHandler)})
			_, err = s.Take(context.Background(), registry.System(), e)
		}
	}
	fmt.Println("not stuck:", err)
	os.Exit(1)
}

// A process that is killed while a report is in its transaction, at a place that is sure,
// leaves nothing; the report, sent again, has its effect once. [contracts D.4]
func TestKilledInsideTheTransaction(t *testing.T) {
	for _, where := range []string{stopRemembered, stopMoved, stopWritten, stopCommitted} {
		t.Run(where, func(t *testing.T) {
			for name, engine := range engines {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					url := engine(t)
					w := newWorld(t, url)
					p := w.buy("u", w.device(), "once", "k")
					e := events{p}.completed()
					killInside(t, url, where, e)
					want := dataplan.Handled
					if where == stopCommitted {
						want = dataplan.Duplicate
					} else {
						equal(t, "what the killed one left", w.purchase(p.ID).Status, dataplan.Pending)
						equal(t, "its audit rows", w.audits("purchase_transition"), 0)
					}
					equal(t, "the report again", w.take(e), want)
					equal(t, "the report once more", w.take(e), dataplan.Duplicate)
					equal(t, "the status", w.purchase(p.ID).Status, dataplan.Paid)
					equal(t, "transitions", w.audits("purchase_transition"), 1)
					list, err := w.service.AllPurchases(t.Context(), admin(), dataplan.PurchaseFilter{Limit: 10})
					if err != nil || len(list) != 1 {
						t.Errorf("%d purchases, %v", len(list), err)
					}
				})
			}
		})
	}
}

// killInside runs a child until it is stuck, and kills it there.
func killInside(t *testing.T, url, where string, e dataplan.Event) {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childURL+"="+url, childEvent+"="+string(text), childStop+"="+where)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill() // SIGKILL
	_ = cmd.Wait()         // it was killed
	if err != nil || strings.TrimSpace(line) != "stuck" {
		t.Fatalf("the child says %q, %v", line, err)
	}
}
