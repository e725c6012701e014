-- +goose Up
-- The scopes that were granted to an administrator beyond those of the role, space
-- separated: the numbers of SIM cards in full.
ALTER TABLE admins ADD COLUMN scopes TEXT NOT NULL DEFAULT '';
