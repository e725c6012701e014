package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

// noSession is a checkout session that nobody has.
func noSession(*stage, *testing.T, string, string, verdict) []string { return []string{"cs_nobodys"} }

// planOf is a plan that is sold, a new one each time.
func planOf(s *stage, t *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{"nobodys"}
	}
	s.bodies++
	id := fmt.Sprintf("matrix-%d", s.bodies)
	now := time.Now()
	err := s.db.DataPlans().InTx(context.Background(), func(tx dataplan.Tx) error {
		_, err := tx.InsertPlan(context.Background(), dataplan.StoredPlan{Plan: matrixPlan(id), CreatedAt: now, UpdatedAt: now})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return []string{id}
}

func matrixPlan(id string) dataplan.Plan {
	return dataplan.Plan{ID: id, Name: "1 GB", Mode: dataplan.ModePayment, Amount: 990, Currency: "usd", CarrierPackage: "P100"}
}

// purchaseOf is a purchase that was held and that the carrier refused, so that it may be
// resumed and ordered again; a new one each time.
func purchaseOf(s *stage, t *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{fmt.Sprintf("%032d", 0)}
	}
	s.bodies++
	id := fmt.Sprintf("%032d", s.bodies)
	now := time.Now()
	p := dataplan.Purchase{
		ID: id, UserID: "somebody", DeviceID: s.house.ID, ICCID: dataplan.ICCID(fmt.Sprintf("8900000000%09d", s.bodies)), Plan: matrixPlan("basic"),
		Stage: dataplan.Pending, Status: dataplan.Pending, Key: id, ExpiresAt: now, OutTradeNo: id, CreatedAt: now, UpdatedAt: now,
	}
	err := s.db.DataPlans().InTx(context.Background(), func(tx dataplan.Tx) error {
		if _, err := tx.InsertPurchase(context.Background(), p); err != nil {
			return err
		}
		p.Stage, p.Status, p.PaidAt, p.HeldAt, p.ClosedAt = dataplan.Failed, dataplan.Failed, now, now, now
		if _, err := tx.UpdatePurchase(context.Background(), p); err != nil {
			return err
		}
		return tx.PutCarrierOrder(context.Background(), dataplan.OrderAttempt{OutTradeNo: id, PurchaseID: id, SentAt: now, DueAt: now, LeaseUntil: now})
	})
	if err != nil {
		t.Fatal(err)
	}
	return []string{id}
}
