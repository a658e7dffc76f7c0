"""Datasets that HierVL registers in Detectron2 by itself: ShapesWorld, CamVid, the paper's benchmarks."""
