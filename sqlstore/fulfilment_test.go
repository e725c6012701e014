package sqlstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The orders of a database that was written before further periods had orders of their
// own are there after the migration, under the names that the carrier knows.
func TestOrdersAreKeptByTheMigration(t *testing.T) {
	const renewals = "20261122000012_renewals.sql"
	for name, engine := range nothing {
		t.Run(name, func(t *testing.T) {
			db := raw(t, engine(t))
			apply := func(file string) {
				t.Helper()
				text, err := os.ReadFile(filepath.Join("migrations", file))
				if err != nil {
					t.Fatal(err)
				}
				execute(t, db, string(text))
			}
			files, err := os.ReadDir("migrations")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if f.Name() < renewals {
					apply(f.Name())
				}
			}
			for i, stage := range []string{"ACTIVE", "ORDERING"} {
				id := fmt.Sprintf("%032d", i+1)
				execute(t, db, `INSERT INTO data_plan_purchases (purchase_id, user_id, device_id, iccid, plan_id, terms, amount, currency, stage, status, idempotency_key,
						expires_at, active_at, out_trade_no, carrier_order_id, created_at, updated_at)
					VALUES ('`+id+`', 'u', 'd', '890', 'p`+id+`', '{}', 1, 'eur', '`+stage+`', '`+stage+`', '`+id+`', 1, CASE WHEN '`+stage+`' = 'ACTIVE' THEN 7 END, '`+id+`', 'EO', 1, 1)`)
				execute(t, db, `INSERT INTO carrier_orders (purchase_id, iccid, attempts, sent_at, due_at, lease_until, taken_at) VALUES ('`+id+`', '890', 2, 3, 4, 5, 6)`)
			}
			execute(t, db, `INSERT INTO sim_cards (sim_id, iccid, status, status_at, created_at, updated_at) VALUES (1, '890', 'suspended', 9, 1, 1)`)
			apply(renewals)
			got := fmt.Sprint(texts(t, db, `SELECT out_trade_no || ' ' || purchase_id || ' ' || COALESCE(invoice_id, '-') || ' ' || starts_at || ' ' || carrier_order_id || ' ' || attempts || ' ' ||
				sent_at || ' ' || due_at || ' ' || lease_until || ' ' || taken_at || ' ' || COALESCE(began_at, 0) FROM package_orders ORDER BY out_trade_no`))
			first, second := fmt.Sprintf("%032d", 1), fmt.Sprintf("%032d", 2)
			want := fmt.Sprintf("[%[1]s %[1]s - 0 EO 2 3 4 5 6 7 %[2]s %[2]s - 0 EO 2 3 4 5 6 0]", first, second)
			equal(t, "the orders", got, want)
			equal(t, "the card was stopped", fmt.Sprint(texts(t, db, `SELECT stopped_at FROM sim_cards`)), "[9]")
		})
	}
}
