package mail_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/partner/mail"
)

func TestTheOutboxKeepsWholeMailsForItsOwnerAlone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "data", "outbox")
	at := time.Date(2026, 3, 4, 5, 6, 7, 89000, time.UTC)
	o, err := mail.NewOutbox(folder, from, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	const mails = 20 // in the same microsecond
	var wg sync.WaitGroup
	for range mails {
		wg.Go(func() {
			if err := o.Send(t.Context(), letter()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != mails {
		t.Errorf("%d files for %d mails", len(files), mails)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 || filepath.Ext(f.Name()) != ".eml" {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		checkLetter(t, text)
	}
}

func TestAnOutboxThatCannotBeWrittenSaysSo(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "outbox")
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.NewOutbox(folder, from, nil); err == nil {
		t.Error("a file is taken for a folder")
	}
	if _, err := mail.NewOutbox(t.TempDir(), "nobody", nil); err == nil {
		t.Error("a sender that is none is taken")
	}
	gone := filepath.Join(t.TempDir(), "outbox")
	o, err := mail.NewOutbox(gone, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if err := o.Send(t.Context(), letter()); err == nil {
		t.Error("a mail without a folder is sent")
	}
}
